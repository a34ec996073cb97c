"""Words of many scripts by Unicode's rules, and the words of tokens."""

import re

import pytest

from fwdgrad.adapters.lstm import LSTMClassifier, normal_words
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.words import split_words, words_of_tokens

FAMILY = "👨\u200d👩\u200d👧"  # three people and what joins them
TEXTS = {
    "English": ("A fine film.", ["A", "fine", "film", "."]),
    "apostrophes and hyphens": (
        "  Isn't it\nwell-made?! It can’t: 1990's rock'n'roll",
        ["Isn't", "it", "well-made", "?", "!", "It", "can’t", ":", "1990's", "rock'n'roll"],
    ),
    "quotes and dashes": ("--'quoted'-- x-", ["-", "-", "'", "quoted", "'", "-", "-", "x", "-"]),
    "numbers": ("3.5 of 1,000: $5", ["3.5", "of", "1,000", ":", "$", "5"]),
    "dates": ("2020-05-06, -5", ["2020-05-06", ",", "-", "5"]),
    "initials": ("the U.S. film", ["the", "U.S", ".", "film"]),
    "addresses": ("me@a.org https://b", ["me", "@", "a.org", "https", ":", "/", "/", "b"]),
    "French": ("L’été naïve", ["L’été", "naïve"]),
    "combining accents": ("Cafe\u0301, nai\u0308ve", ["Cafe\u0301", ",", "nai\u0308ve"]),
    "Greek": ("Ωραία ταινία;", ["Ωραία", "ταινία", ";"]),
    "Russian": ("Фильм кое-как снят.", ["Фильм", "кое-как", "снят", "."]),
    "Hindi": ("यह फ़िल्म बहुत अच्छी है।", ["यह", "फ़िल्म", "बहुत", "अच्छी", "है", "।"]),
    "Bengali": ("ছবিটি সুন্দর।", ["ছবিটি", "সুন্দর", "।"]),
    "Tamil": ("படம் மிகவும் நன்றாக இருந்தது.", ["படம்", "மிகவும்", "நன்றாக", "இருந்தது", "."]),
    "vowelled Arabic": ("هَذَا الفِيلْمُ رَائِعٌ.", ["هَذَا", "الفِيلْمُ", "رَائِعٌ", "."]),
    "Persian": ("می\u200cخواهم", ["می\u200cخواهم"]),  # a joiner that is not seen
    "pointed Hebrew": ("הַסֶּרֶט טוֹב מְאֹד!", ["הַסֶּרֶט", "טוֹב", "מְאֹד", "!"]),
    "Hebrew initials": ('ארה"ב', ['ארה"ב']),
    "Korean": ("이 영화는 정말 좋다.", ["이", "영화는", "정말", "좋다", "."]),
    "Korean, by letters": ("\u1112\u1161\u11ab 글", ["\u1112\u1161\u11ab", "글"]),
    "Chinese": ("这部电影很好。", ["这", "部", "电", "影", "很", "好", "。"]),
    "Japanese": ("映画はカタカナ。", ["映", "画", "は", "カタカナ", "。"]),
    "Thai": ("น้ำดีกว่า", ["น้ำ", "ดี", "ก", "ว่", "า"]),  # letters with their marks
    "skin tones": ("👍🏽👍", ["👍🏽", "👍"]),
    "joined emoji": (f"{FAMILY}❤\ufe0f", [FAMILY, "❤\ufe0f"]),
    "flags": ("🇩🇪🇫🇷 🇩🇪!", ["🇩🇪", "🇫🇷", "🇩🇪", "!"]),
    "keycaps": ("1\ufe0f\u20e3 2", ["1\ufe0f\u20e3", "2"]),
    "mixed": ("映画 🎬<b>iPhoneの3D", ["映", "画", "🎬", "<", "b", ">", "iPhone", "の", "3D"]),
    "what nobody sees": ("\ufeffa\u200b b\u00adc \x00\x1b[d\r\n", ["a", "b\u00adc", "[", "d"]),
}


@pytest.mark.parametrize("script", TEXTS)
def test_words_are_slices_of_the_text(script):
    text, words = TEXTS[script]
    assert [text[start:stop] for start, stop in split_words(text)] == words


@pytest.mark.parametrize("text", ["", " \t\r\n", "\u200b\ufeff \x00"])
def test_what_nobody_sees_is_no_word(text):
    with pytest.raises(ValueError, match="text must have at least one word, got"):
        split_words(text)


@pytest.mark.parametrize("sign", ["a", "\u0301", " ", "า", "🇩", "a-", "👨\u200d", "1,", "\n"])
def test_time_is_in_proportion_to_length(sign):
    # Two hundred times what a long text has; a pattern that goes back over it would take minutes.
    assert len(split_words("a " + 20_000 * sign)) <= 20_001


def test_a_word_is_known_however_it_is_written():
    assert normal_words("CAFE\u0301 caf\u00e9") == ["caf\u00e9", "caf\u00e9"]
    assert normal_words("\u2066go\u00adod\u2069\u200e") == ["good"]
    model = LSTMClassifier(["caf\u00e9"], ["bad", "good"])
    assert model.tokens("Cafe\u0301 x") == [1, 0]


@pytest.mark.parametrize(
    ("text", "tokens", "words", "word_of"),
    [
        ("a bc", [None, (0, 1), (2, 3), (3, 4), None], ["a", "bc"], (-1, 0, 1, 1, -1)),
        ("a bc", [(0, 1), (1, 3), (3, 4)], ["a", "bc"], (0, 1, 1)),  # with the space before it
        ("电影好", [(0, 2), (2, 3)], ["电影", "好"], (0, 1)),
        ("电影好", [(0, 1), (0, 1), (1, 2), (2, 3)], ["电", "影", "好"], (0, 0, 1, 2)),  # bytes
        ("电影好", [(0, 2), (1, 3)], ["电影好"], (0, 0)),
        ('"ok."', [(0, 1), (1, 3), (3, 5)], ['"', "ok", '."'], (0, 1, 2)),
        ("a\n\nb", [(0, 1), (1, 3), (3, 4)], ["a", "b"], (0, 1, 1)),
        ("a b c", [(0, 1), (4, 5)], ["a", "c"], (0, 1)),  # b is not read
        ("a", [None], [], (-1,)),
    ],
)
def test_words_that_share_a_token_are_one(text, tokens, words, word_of):
    spans, found = words_of_tokens(text, split_words(text), tokens)
    assert [text[start:stop] for start, stop in spans] == words
    assert found == word_of


def test_no_mark_is_parted_from_its_letter_in_a_terminal_or_page():
    text, words = TEXTS["pointed Hebrew"]
    model = LSTMClassifier(["a"], ["bad", "good"]).eval()
    result = explain_text(model, text, "good", n_samples=64)
    assert list(result.words) == words
    coloured = result.to_terminal(colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text
    assert not re.search(r"m[\u0591-\u05c7]", coloured)
    page = result.to_html()
    assert '<p class="text" dir="auto">' in page  # from right to left, as its first letter is
    for word in words:
        assert f'">{word}</span>' in page
