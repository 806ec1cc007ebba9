"""English phrases for those emoji names that the rules in `names.py` get wrong."""

NO_ARTICLE = {
    *("broccoli", "garlic", "ginger root", "bread", "bacon", "popcorn", "butter", "salt", "canned food", "coral"),
    *("cooked rice", "curry rice", "spaghetti", "oden", "sushi", "shaved ice", "custard", "sake", "bubble tea", "ice"),
    *("nail polish", "luggage", "fog", "skis", "money with wings", "Santa Claus", "Mrs. Claus", "Mx Claus"),
    *("tennis", "bowling", "field hockey", "ice hockey", "lacrosse", "ping pong", "badminton"),
}
"""Names that take no article, although they look singular."""

SIGNS = {
    *("high voltage", "warning", "children crossing", "prohibited", "radioactive", "biohazard"),
    *("potable water", "non-potable water", "passport control", "customs", "baggage claim", "left luggage"),
    *("men's room", "women's room", "restroom", "water closet", "cinema", "information"),
    *("no entry", "no bicycles", "no smoking", "no littering", "no pedestrians", "no mobile phones"),
    *("no one under eighteen", "copyright", "registered", "trade mark"),
    *("multiply", "plus", "minus", "divide", "infinity"),
}
"""Get "sign" after them: "a warning sign"."""

SYMBOLS = {
    *("dizzy", "dashing away", "hundred points", "om", "yin yang", "wireless", "vibration mode", "mobile phone off"),
}
"""Get "symbol" after them: "a dizzy symbol"."""

ZODIAC = {
    *("Aries", "Taurus", "Gemini", "Cancer", "Leo", "Virgo", "Libra", "Scorpio", "Sagittarius"),
    *("Capricorn", "Aquarius", "Pisces", "Ophiuchus"),
}
"""Get "the zodiac sign" before them: "the zodiac sign Leo"."""

THINGS_WORN_OR_HELD = (
    *("halo", "tear", "tongue", "peeking eye", "raised eyebrow", "medical mask", "thermometer", "head-bandage"),
    *("monocle", "diagonal mouth", "open mouth", "wry smile", "arrow", "ribbon", "speech bubble", "hearing aid"),
    *("crown", "turban", "skullcap", "headscarf", "tuxedo", "veil", "massage", "haircut", "white cane"),
    *("motorized wheelchair", "manual wheelchair", "suit", "steamy room", "boat", "ball", "bath", "mouth", "garden"),
    *("umbrella", "straw", "spoon", "plate", "handle", "popping cork", "swirl", "face", "cloud", "small cloud"),
    *("large cloud", "rain cloud", "slash", "flash", "decorative cover", "curl", "raised flag", "lowered flag"),
    *("ballot", "check", "hand", "baby"),
)
"""Nouns that stand in names without their article: "person with crown"."""

NOUN_PHRASES = {
    "rolling on the floor laughing": "a face rolling on the floor laughing",
    "star-struck": "a star-struck face",
    "face with hand over mouth": "a face with a hand over its mouth",
    "face with open eyes and hand over mouth": "a face with open eyes and a hand over its mouth",
    "face with bags under eyes": "a face with bags under its eyes",
    "face with steam from nose": "a face with steam from its nose",
    "face with symbols on mouth": "a face with symbols on its mouth",
    "skull and crossbones": "a skull and crossbones",
    "hand with index finger and thumb crossed": "a hand with crossed index finger and thumb",
    "ZZZ": "the letters ZZZ",
    "raised back of hand": "the raised back of a hand",
    "palm down hand": "a hand with its palm down",
    "palm up hand": "a hand with its palm up",
    "palms up together": "two palms up together",
    "backhand index pointing left": "a backhand index finger pointing left",
    "backhand index pointing right": "a backhand index finger pointing right",
    "backhand index pointing up": "a backhand index finger pointing up",
    "backhand index pointing down": "a backhand index finger pointing down",
    "index pointing up": "an index finger pointing up",
    "index pointing at the viewer": "an index finger pointing at the viewer",
    "breast-feeding": "a woman breast-feeding",
    "horse racing": "a horse race",
    "rhinoceros": "a rhinoceros",
    "leaf fluttering in wind": "a leaf fluttering in the wind",
    "meat on bone": "meat on a bone",
    "baguette bread": "a baguette",
    "cooking": "an egg cooking in a pan",
    "mate": "a cup of mate",
    "pouring liquid": "a glass pouring liquid",
    "globe showing Americas": "a globe showing the Americas",
    "mount fuji": "Mount Fuji",
    "camping": "a tent for camping",
    "building construction": "a building under construction",
    "wood": "a piece of wood",
    "Tokyo tower": "the Tokyo tower",
    "Statue of Liberty": "the Statue of Liberty",
    "kaaba": "the Kaaba",
    "hindu temple": "a Hindu temple",
    "shinto shrine": "a Shinto shrine",
    "foggy": "a foggy city",
    "milky way": "the Milky Way",
    "light rail": "a light rail train",
    "construction": "a construction barrier",
    "hourglass done": "an hourglass that is done",
    "hourglass not done": "an hourglass that is not done",
    "umbrella on ground": "an umbrella on the ground",
    "american football": "an American football",
    "flag in hole": "a golf flag in a hole",
    "mahjong red dragon": "a mahjong red dragon tile",
    "joker": "a joker card",
    "thread": "a spool of thread",
    "yarn": "a ball of yarn",
    "headphone": "headphones",
    "speaker low volume": "a speaker at low volume",
    "speaker medium volume": "a speaker at medium volume",
    "speaker high volume": "a speaker at high volume",
    "dvd": "a DVD",
    "dna": "a strand of DNA",
    "chart increasing": "an increasing chart",
    "chart increasing with yen": "an increasing chart with a yen sign",
    "chart decreasing": "a decreasing chart",
    "locked": "a locked padlock",
    "unlocked": "an unlocked padlock",
    "locked with pen": "a locked padlock with a pen",
    "locked with key": "a locked padlock with a key",
    "soap": "a bar of soap",
    "Japanese symbol for beginner": "the Japanese symbol for a beginner",
    "input latin uppercase": "an input button for uppercase Latin letters",
    "input latin lowercase": "an input button for lowercase Latin letters",
    "input latin letters": "an input button for Latin letters",
    "input numbers": "an input button for numbers",
    "input symbols": "an input button for symbols",
    "A button (blood type)": "a blood type A button",
    "AB button (blood type)": "a blood type AB button",
    "B button (blood type)": "a blood type B button",
    "O button (blood type)": "a blood type O button",
}
"""Complete phrases, by name."""

PLACES = {
    "Bahamas": "the Bahamas",
    "Comoros": "the Comoros",
    "Congo - Brazzaville": "Congo-Brazzaville",
    "Congo - Kinshasa": "Congo-Kinshasa",
    "Gambia": "the Gambia",
    "Hong Kong SAR China": "Hong Kong",
    "Isle of Man": "the Isle of Man",
    "Macao SAR China": "Macao",
    "Maldives": "the Maldives",
    "Myanmar (Burma)": "Myanmar",
    "Philippines": "the Philippines",
    "South Georgia and South Sandwich Islands": "South Georgia and the South Sandwich Islands",
}
"""Names of places in "the flag of ...", by Unicode's name."""
