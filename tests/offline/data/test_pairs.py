from offline.data.dataset import Judgement, Query
from offline.data.pairs import (
    Text,
    distillation_texts,
    fold,
    from_judgements,
    from_sentences,
    from_titles,
    held_out,
    mine_sentences,
    rows_of_same,
)


def test_fold_forgets_case_spacing_and_final_punctuation():
    assert fold("  What IS\tthis? ") == fold("what is this")
    assert fold("a.b") == "a.b"


def test_held_out_are_dev_and_test():
    queries = [Query("a", "One", "train"), Query("b", "Two!", "dev"), Query("c", "Three", "test")]
    assert held_out(queries) == {"two", "three"}


def test_pairs_of_judgements_take_relevant_ones_of_train_only():
    queries = [Query("a", "one", "train"), Query("b", "two", "test"), Query("c", "TWO?", "train")]
    judgements = [
        Judgement("train", "a", 0, 2),
        Judgement("train", "a", 1, 1),
        Judgement("train", "c", 1, 2),
        Judgement("test", "b", 1, 2),
    ]
    pairs = from_judgements(queries, judgements, ["t0", "t1"], ["x0", "x1"], 2, held_out(queries))
    assert [(pair.query, pair.title, pair.text, pair.row) for pair in pairs] == [("one", "t0", "x0", 0)]


def test_pairs_of_titles_leave_the_title_out_of_the_text():
    titles = ["am", "", "Mug", "Cup", "Asked for"]
    texts = ["The AM program. am start; diagram", "text", "", "cup. ", "Something"]
    pairs = from_titles(titles, texts, forbidden={"asked for"})
    assert from_titles(titles, texts, {"asked for"}, limit=len(pairs)) == pairs
    (one,) = from_titles(titles, texts, {"asked for"}, limit=1)
    assert one in pairs
    assert [(pair.query, pair.title, pair.text.split(), pair.row) for pair in pairs] == [
        ("am", "", ["The", "program.", "start;", "diagram"], 0)
    ]


def test_pairs_of_sentences_are_the_first_and_what_follows():
    texts = [
        "Dr. Who travels in time. He has a blue box; it is larger inside.",
        "One sentence alone, however long?",
        "How do planes fly? I mean how.",
        "How do birds fly? No.",
        "Asked for already? It is held out.",
        "Say it twice please. Say it twice please.",
    ]
    pairs = from_sentences(texts, {"asked for already"})
    assert [(pair.query, pair.title, pair.text, pair.row) for pair in pairs] == [
        ("Dr. Who travels in time.", "", "He has a blue box; it is larger inside.", 0),
        ("How do planes fly?", "", "I mean how.", 2),
    ]
    assert from_sentences(texts, {"asked for already"}, limit=1)[0] in pairs


def test_documents_that_are_a_query_are_found_by_text_and_title():
    titles = ["", "How do planes fly", "A flight", "", "?"]
    texts = ["how do  PLANES fly?", "By wings.", "How do planes fly? By wings.", "flight", "x" * 10_000]
    assert rows_of_same(["How do planes fly?", "flight", "bird", "?"], titles, texts) == {
        "How do planes fly?": frozenset({0, 1}),
        "flight": frozenset({3}),
    }


def test_each_text_is_kept_once_under_its_first_source():
    sources = [("train", ["Find  it"]), ("log", ["find it?", "secret", ""]), ("title", ["Other", "..."])]
    assert distillation_texts(sources, {"secret"}) == [Text("Find it", "train"), Text("Other", "title")]


def test_sentences_end_at_stops_semicolons_and_lines():
    page = "Android activity manager. Short.\nam start -n com.android/.Settings\nam to-uri -a x; colour: very red"
    assert list(mine_sentences([page], 9)) == [
        "Android activity manager.",
        "am start -n com.android/.Settings",
        "am to-uri -a x",
        "colour: very red",
    ]


def test_sentences_of_scripts_without_spaces_end_at_their_own_stops():
    text = "東京は日本の首都です。人口は千四百万人です！？はい。「行きましょう。」と彼は言いました。"  # noqa: RUF001
    first, second, third = "東京は日本の首都です。", "人口は千四百万人です！？", "「行きましょう。」と彼は言いました。"  # noqa: RUF001
    assert list(mine_sentences([text], 9)) == [first, second, third]
    (pair,) = from_sentences([text], set())
    assert (pair.query, pair.text) == (first, text.removeprefix(first))
    assert fold("什么是红茶？") == fold("什么是红茶")  # noqa: RUF001
    assert list(mine_sentences(["字" * 129 + "。"], 9)) == [], "64 words at most"


def test_sentences_are_bounded_in_length_and_number():
    long = " ".join(["word"] * 65)
    assert list(mine_sentences([f"{long}. one two three. four five six. seven eight nine."], 2)) == [
        "one two three.",
        "four five six.",
    ]
    assert list(mine_sentences(["one two three."], 0)) == []
