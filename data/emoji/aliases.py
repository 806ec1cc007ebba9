"""Names of drawings in npm packages that no rule can match with a concept, and drawings that are wrong."""

import re

ALIASES = {
    "a-button": "A button (blood type)",
    "ab-button": "AB button (blood type)",
    "b-button": "B button (blood type)",
    "o-button": "O button (blood type)",
    "up-text-button": "UP! button",
    "up-exclamation-button": "UP! button",
    "exclamation-mark": "red exclamation mark",
    "question-mark": "red question mark",
    "keycap-asterisk": "keycap: *",
    "keycap-hashtag": "keycap: #",
    "keycap-pound": "keycap: #",
    "flag-for-black-flag": "black flag",
    "flag-for-chequered-flag": "chequered flag",
    "flag-for-cocos-islands": "flag: Cocos (Keeling) Islands",
    "flag-for-crossed-flags": "crossed flags",
    "flag-for-macau-sar-china": "flag: Macao SAR China",
    "flag-for-macedonia": "flag: North Macedonia",
    "flag-for-myanmar": "flag: Myanmar (Burma)",
    "flag-for-rainbow-flag": "rainbow flag",
    "flag-for-swaziland": "flag: Eswatini",
    "flag-for-triangular-flag": "triangular flag",
    "flag-for-turkey": "flag: Türkiye",
    "flag-for-white-flag": "white flag",
    "heavy-heart-exclamation": "heart exclamation",
    "smiling-cat-face-with-heart-eyes": "smiling cat with heart-eyes",
    "knocked-out-face": "face with crossed-out eyes",
    "phoenix-bird": "phoenix",
    "piata": "piñata",
    "red-triangle": "red triangle pointed up",
    "blond-haired-person": "person: blond hair",
    "man-blonde-hair": "man: blond hair",
    "person-blonde-hair": "person: blond hair",
    "woman-blonde-hair": "woman: blond hair",
    "man-with-chinese-cap": "person with skullcap",
    "man-deaf": "deaf man",
    "person-deaf": "deaf person",
    "woman-deaf": "deaf woman",
    "man-merpeople": "merman",
    "person-merpeople": "merperson",
    "woman-merpeople": "mermaid",
    "man-with-bunny-ears": "men with bunny ears",
    "person-with-bunny-ears": "people with bunny ears",
    "woman-with-bunny-ears": "women with bunny ears",
    "man-wrestling": "men wrestling",
    "person-wrestling": "people wrestling",
    "woman-wrestling": "women wrestling",
    "person-elf": "elf",
    "person-fairy": "fairy",
    "person-genie": "genie",
    "person-mage": "mage",
    "person-superhero": "superhero",
    "person-supervillain": "supervillain",
    "person-vampire": "vampire",
    "person-zombie": "zombie",
}
"""CLDR names by names in the packages, both without skin tones."""

MISDRAWN = {
    "1f499/firefox": "is cut off",
    "1f68b/firefox": "is black all over",
    "1f32b/firefox": "can hardly be seen",
    **{f"{code:x}/firefox": "shows a fox" for code in range(0x1F638, 0x1F641)},  # that the caption calls a cat
    "1f6c0-1f3fe/fluent-flat": "has another skin tone",
    **{f"1f6b5-{tone}/fluent-3d": "has another skin tone" for tone in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")},
    "1fa9f/emojione-v1": "shows a window of a screen",
}
"""Drawings that do not show what they are called, as {key: reason}."""

TONES_RIGHT = re.compile("1f4bb|1f46[bcd]|1f491|1f48f|2764|200d-1f91d")
"""Matches the code points of those drawings in `fluent-3d` whose medium and medium-light tones are named correctly. In
all others the two are swapped."""

_FIREFOX = """
    2hearts=1f495 acorn=1f330 americasglobe=1f30e anger=1f4a2 angry=1f620 anguish=1f627
    anticlockwiseupwardsanddownwardsarrows=1f504 aok=1f44c arrowrightwardsdownwards=2935 arrowrightwardsupwards=2934
    asiaaustraliaglobe=1f30f astonished=1f632 backwithleftwardsarrow=1f519 ballottboxwithballott=1f5f3
    banknotedollar=1f4b5 banknoteeuro=1f4b6 banknotepound=1f4b7 banknoteyen=1f4b4 beachumbrella=1f3d6
    bellcancellation=1f515 blackdownpointingdoublearrow=23ec blackleftpointingarrow=25c0
    blackleftpointingdoublearrow=23ea blackquestionmark=2753 blackrightpointingarrow=25b6
    blackrightpointingdoublearrow=23e9 blackuppointingdoublearrow=23eb blackwaving=1f3f4 blonde=1f471 bolt=26a1
    bookmarktab=1f4d1 boot=1f462 bow=1f380 bowing=1f647 bride=1f470 bunny=1f430 bunnyside=1f407 cat=1f431 catside=1f408
    cellphone=1f4f1 chartdownwardstrend=1f4c9 chartupwardstrend=1f4c8 chartupwardstrendyen=1f4b9 chilipepper=1f336
    chineseflag=1f1e8-1f1f3 clap=1f44f clock12oclock=1f55b clock12thirty=1f567 clock1oclock=1f550 clock1thirty=1f55c
    clock2oclock=1f551 clock2thirty=1f55d clock3oclock=1f552 clock3thirty=1f55e clock4oclock=1f553 clock4thirty=1f55f
    clock5thirty=1f560 clock6oclock=1f555 clock6thirty=1f561 clock7oclock=1f556 clockwisedownupcircledarrows=1f503
    clockwiserightwardsleftwardscirclearrows=1f501 clockwiserightwardsleftwardscirclearrowsone=1f502
    closedmailboxlowered=1f4ea closedmailboxraised=1f4eb coldsweat=1f630 confetti=1f38a confounded=1f616 confused=1f615
    construct=1f477 construction=1f3d7 contact=1f464 contact2=1f465 controlknob=1f39b cop=1f46e couple=1f491
    couplekiss=1f48f crying=1f622 dash=1f4a8 devilhorns=1f608 diamondshapewithdotinside=1f4a0 disappointed=1f61e
    dissapointedrelief=1f625 dog=1f436 dogside=1f415 doubleexclaimationmark=203c down=1f447
    downpointingsmallredtrisngle=1f53d dragonhead=1f432 dragonside=1f409 eightspokedasterix=2733
    endwithleftwardsarrow=1f51a envelopedownarrowabove=1f4e9 europeafricaglobe=1f30d evergreen=1f332
    exclaimationquestionmark=2049 expressionless=1f611 fallingleaf=1f342 fearful=1f628 fishcakeswirl=1f365
    fistedhand=1f44a flexbicep=1f4aa floppydisk2=1f4be flushed=1f633 forkknife=1f37d foxcrying=1f63f foxgrin=1f638
    foxheart=1f63b foxkissing=1f63d foxpouting=1f63e foxsmiling=1f63a foxtearofjoy=1f639 foxweary=1f640 foxwry=1f63c
    franceflag=1f1eb-1f1f7 frontfacingchick=1f425 frown=1f64d frownmouth=1f626 gem=1f48e girlgirl=1f46d girlguy=1f46b
    gma=1f475 gpa=1f474 greatbritainflag=1f1ec-1f1e7 grimacing=1f62c grin=1f600 grineyes=1f601 grinsquint=1f606
    grinsweat=1f605 grintears=1f602 grinwide=1f603 grinwideeyes=1f604 guapimao=1f472 guyguy=1f46c halo=1f607
    hampster=1f439 hand=270b handheldvideocamera=1f4f9 hands=1f450 handup=1f64b headmassage=1f486 heartarrow=1f498
    heartblue=1f499 hearteyes=1f60d heartgreen=1f49a heartpurple=1f49c heartribbon=1f49d heartyellow=1f49b
    heavyexclaimationmarksymbol=2757 heavymultiplicationsymbol=2716 heels=1f460 high5=1f64c highbrightness=1f506
    highspeedtrainbulletnose=1f685 hourglassflowingsand=23f3 hushed=1f62f index=261d italianflag=1f1ee-1f1f9
    japaneseangrymask=1f47a japanflag=1f1ef-1f1f5 keyboard=1f398 kiss=1f617 kissclosedeyes=1f61a kisseyes=1f619
    kissing=1f618 koreaflag=1f1f0-1f1f7 leaffluttering=1f343 left=1f448 leftmagnifyingglass=1f50d leopardside=1f406
    lockandkey=1f510 loudlycrying=1f62d lowbrightness=1f505 lowerleftpen=1f58a mahjong=1f004 makeupbag=1f45d
    manltepiececlock=1f570 mansshirt=1f455 medicalmask=1f637 mensrunner=1f45f mensshoe=1f45e meridianglobe=1f310
    monkeyhear=1f649 monkeysee=1f648 monkeyspeak=1f64a mouse=1f42d mouseside=1f401 negativesquaredlatincaptiala=1f170
    negativesquaredlatincaptialb=1f171 negativesquaredlatincaptialo=1f17e neutral=1f610 nogesture=1f645 nomouth=1f636
    nooneunder18symbol=1f51e notebookdecorativecover=1f4d4 okgesture=1f646 onarrowleftright=1f51b
    openmailboxlowered=1f4ed openmailboxraised=1f4ec openmouth=1f62e outbox=1f4e4 pensive=1f614 perservere=1f623
    phonerightarrowleft=1f4f2 pig=1f437 pigside=1f416 pigsnout=1f43d pinkwallet=1f45b poo=1f4a9 potablewatersystem=1f6b0
    pout=1f64e pouting=1f621 pray=1f64f present=1f381 racecar=1f3ce raincloud=1f327 raisedhandpartfingers=1f596
    raisedhandsfingerssplayed=1f590 relieved=1f60c reminder=1f397 reversehandmiddlefinger=1f595 right=1f449
    rightmagnifyingglass=1f50e running=1f3c3 russianflag=1f1f7-1f1fa saggitarius=2650 sandals=1f461 screamfear=1f631
    silhouetteohjapan=1f5fe sixpointedstarwithdot=1f52f sleeping=1f634 sleepy=1f62a sleuthspy=1f575 smallfrown=1f641
    smallsmile=1f642 smileeyes=1f60a smiletongue=1f60b smirk=1f60f snowcloud=1f328 snowmountains=1f3d4
    soonwithrightarrow=1f51c spanishflag=1f1ea-1f1f8 sparkle=2748 speaker3soundwaves=1f50a speakercancellation=1f507
    speakeronesoundwave=1f509 speechbubble=1f4ac spurtingwhale=1f433 squaredup=1f199 star=1f31f stormcloud=1f329
    studiomic=1f399 sunglasses=1f60e sunraincloud=1f326 sunrays=2600 sweat=1f613 sweatsplash=1f4a6 swimming=1f3ca
    telephonereceiver2=1f4de ten=1f51f tennisball=1f3be thoughtbaloon=1f4ad tie=1f454 tiger=1f42f tigerside=1f405
    tired=1f62b tongueout=1f61b tongueoutwink=1f61c tongueoutwink2=1f61d topwithupwardsarrow=1f51d toykotower=1f5fc
    triumph=1f624 turban=1f473 umbrella=1f302 unamused=1f612 up=1f446 uppointingsmallredtrisngle=1f53c
    videocasette=1f4fc waitress=1f481 walking=1f6b6 waningbibbousmoon=1f316 wave=1f30a waving=1f44b weary=1f629
    whiteexclaimationmark=2755 whitesunsmallcloud=1f324 window=1f5d4 winking=1f609 womansshirt=1f45a worried=1f61f
"""

FIREFOX = dict(pair.split("=") for pair in _FIREFOX.split())
"""Code points by the names of Firefox OS, from the files of https://github.com/mozilla/fxemoji."""
