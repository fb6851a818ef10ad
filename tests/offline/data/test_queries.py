import pytest
from tiny_models import make_tiny_qwen

from offline.config import DataConfig, GeneratorConfig
from offline.data.corpus import Corpus
from offline.data.generator import Generator
from offline.data.pairs import distillation_texts
from offline.data.queries import Sentences, Spans, Templates, miners
from offline.errors import BackboneError

TITLES = ["wireless headphones", "a red mug", "a blue mug", "", "a tea cup"]
BODIES = [
    "The wireless headphones cancel ambient noise. Made of aluminium; battery lasts 30 hours.",
    "The mug is red. It is made of clay.",
    "The mug is blue. It is made of clay.",
    "The thing.",
    "The cup holds tea. It is made of porcelain.",
]
# Twenty documents more, so that "the", "is" and "made of" stand in many and the others in few.
CORPUS = Corpus([*TITLES, *([""] * 20)], [*BODIES, *(["The thing is made of something."] * 20)])


def test_keywords_are_the_words_of_few_documents_in_their_order():
    assert CORPUS.keywords(0, 3) == ["wireless", "headphones", "cancel"]
    assert CORPUS.keywords(3, 3) == []


def test_numbers_and_common_words_are_no_keywords():
    assert not {"30", "The", "made", "of"} & set(CORPUS.keywords(0, 50))


def test_phrases_have_no_common_word_at_their_ends_and_cross_no_stop():
    phrases = CORPUS.phrases(0, 10)
    assert phrases
    for phrase in phrases:
        assert 2 <= len(phrase.split()) <= 5
        assert CORPUS.rarity(phrase.split()[0]) > 0
        assert CORPUS.rarity(phrase.split()[-1]) > 0
        assert any(phrase in part for part in ("wireless headphones cancel ambient noise", "battery lasts 30 hours", TITLES[0]))


def test_spans_are_pure_and_as_many_as_asked_for():
    assert list(Spans(4).mine(CORPUS)) == list(Spans(4).mine(CORPUS))
    assert len(list(Spans(4).mine(CORPUS))) == 4 * len(CORPUS.titles)
    assert list(Spans(0).mine(CORPUS)) == []


def test_spans_of_a_script_without_spaces_are_short():
    titles = ["京都の寺院案内", "北海道の温泉", *([""] * 20)]
    bodies = [
        "金閣寺と清水寺を歩いて巡る。紅葉の季節は混雑するため早朝の拝観を勧める。",
        "登別と函館の名湯、露天風呂から雪景色を眺める。",
        *(["これは何かの説明です。"] * 20),
    ]
    spans = list(Spans(4).mine(Corpus(titles, bodies)))[:8]
    assert all(spans)
    assert max(len(part) for span in spans for part in span.split()) <= 8
    phrases = Corpus(titles, bodies).phrases(0, 4)
    assert all(2 <= len(phrase) <= 6 and phrase in titles[0] + bodies[0] for phrase in phrases)
    assert not any("。" in phrase for phrase in phrases)


def test_templates_take_turns_and_need_a_title():
    mined = list(Templates(("what is {title}", "{title} {keywords}"), 1).mine(CORPUS))
    assert mined[0] == "what is wireless headphones"
    assert mined[1] == "a red mug clay"
    assert mined[2] == "what is a blue mug"
    assert len(mined) == 4  # one title is empty


def test_what_a_recipe_leaves_out_gives_nothing():
    config = DataConfig(unlabelled_per_document=0, spans_per_document=0, templates_per_document=0)
    assert {miner.source: len(list(miner.mine(CORPUS))) for miner in miners(config)} == {
        "title": 25,
        "sentence": 0,
        "span": 0,
        "template": 0,
    }


def test_a_text_of_two_sources_is_counted_once_whatever_its_case_and_spacing():
    sources = [
        (miner.source, miner.mine(Corpus(["One  Two three.", "one two THREE"], ["", ""]))) for miner in miners(DataConfig())
    ]
    texts = distillation_texts(sources, frozenset())
    assert next(text.text for text in texts if text.text.casefold().startswith("one two")) == "One Two three."
    assert sum(text.text.casefold().rstrip(".") == "one two three" for text in texts) == 1


def test_sentences_are_those_of_the_texts():
    assert list(Sentences(1).mine(Corpus(["t"], ["One two three. Four five six."]))) == ["One two three."]


def test_a_generator_is_off_unless_a_model_is_named_and_follows_from_its_seed(tmp_path):
    assert not any(isinstance(miner, Generator) for miner in miners(DataConfig()))
    config = GeneratorConfig(model=str(make_causal(tmp_path)), per_document=2, max_documents=3, max_query_tokens=4, batch_size=2)
    first = list(Generator(config).mine(CORPUS))
    assert len(first) == 6
    assert first == list(Generator(config).mine(CORPUS))
    assert any(isinstance(miner, Generator) for miner in miners(DataConfig(generator=config)))


def test_a_generator_that_is_no_model_is_told(tmp_path):
    with pytest.raises(BackboneError, match="there is no such folder"):
        list(Generator(GeneratorConfig(model=str(tmp_path / "nowhere"))).mine(CORPUS))


def make_causal(folder):
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tiny_qwen(folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder
