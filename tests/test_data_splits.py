import pytest

from data.splits import (
    HELDOUT_CONCEPT,
    HELDOUT_STYLE,
    TRAIN,
    VALIDATION,
    VALIDATION_STYLE,
    assign_splits,
    fraction,
    picture_split,
    united,
)  # fmt: skip

STYLES = ("twemoji", "openmoji", "noto")


def test_the_hash_never_changes() -> None:
    """Other values would change all splits, and trained models would have seen their test pictures."""
    assert fraction("fox") == pytest.approx(0.4665023774532984, abs=1e-15)
    assert fraction("") == pytest.approx(0.8894159948913374, abs=1e-15)


def test_split_sizes_are_as_documented() -> None:
    families = [f"family {i}" for i in range(20_000)]
    splits = [[picture_split(family, style, STYLES) for style in STYLES] for family in families]
    share = {split: sum(split in its for its in splits) / len(splits) for split in (HELDOUT_CONCEPT, VALIDATION)}
    assert share[HELDOUT_CONCEPT] == pytest.approx(0.05, abs=0.005)
    assert share[VALIDATION] == pytest.approx(0.05, abs=0.005)
    for apart in (HELDOUT_STYLE, VALIDATION_STYLE):
        found = [its for its in splits if apart in its]
        assert len(found) / len(splits) == pytest.approx(0.05, abs=0.005)
        assert all(sorted(its) == sorted([apart, TRAIN, TRAIN]) for its in found)
        for place in range(3):
            assert sum(its[place] == apart for its in found) / len(found) == pytest.approx(1 / 3, abs=0.05)


def test_only_one_style_of_a_family_is_held_out() -> None:
    for i in range(500):
        splits = {picture_split(f"family {i}", style, STYLES) for style in STYLES}
        assert len(splits) == 1 or splits in ({TRAIN, HELDOUT_STYLE}, {TRAIN, VALIDATION_STYLE})


def test_united_follows_chains() -> None:
    groups = [("d", "c"), ("x", "y"), ("b", "a"), ("c", "b")]
    assert united(groups) == {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "x"}


def test_united_does_not_depend_on_order() -> None:
    groups = [("e", "f"), ("a", "b"), ("b", "c"), ("f", "a")]
    assert united(groups) == united(reversed(groups)) == dict.fromkeys("abcef", "a")


def test_stated_splits_are_kept_under_our_names() -> None:
    assert assign_splits(["a", "b", "c", "d"], ["val", None, "Test", "mine"])[0] == [VALIDATION, TRAIN, "test", "mine"]


def test_pictures_without_splits_are_split_by_hash() -> None:
    keys = [f"{i}.png" for i in range(1000)]
    splits, count = assign_splits(keys, [None] * 1000)
    assert count == splits.count(VALIDATION)
    assert splits.count(VALIDATION) == sum(fraction(key) < 0.05 for key in keys)
    assert 30 < splits.count(VALIDATION) < 70
    assert assign_splits(keys[:500], ["train"] * 500)[0] == splits[:500]


@pytest.mark.parametrize(("count", "validation"), [(1, 0), (2, 1), (5, 1)])
def test_both_splits_of_few_pictures_have_some(count: int, validation: int) -> None:
    splits, _ = assign_splits([f"{i}.png" for i in range(count)], [None] * count)
    assert (splits.count(VALIDATION), splits.count(TRAIN)) == (validation, count - validation)
