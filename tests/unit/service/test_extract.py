from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel.schema import Language
from cupel_service.extract import extract_program

CPP = "```cpp\nint main() {}\n```\n"
PYTHON = "```python\nprint(1)\n```\n"
BARE = "```\nbare\n```\n"
TEXT = "```text\noutput\n```\n"

pieces = st.lists(
    st.sampled_from(
        ["```", "````", "~~~", "cpp", "python", "\n", " ", "\t", "x", "`", "<think>", "</think>"]
    )
).map("".join)


def _source(completion: str, language: Language | None = None) -> str | None:
    return extract_program(completion, language).source


@pytest.mark.parametrize(
    ("info", "language"),
    [
        ("cpp", Language.CPP),
        ("c++", Language.CPP),
        ("C++17", Language.CPP),
        ("cpp20", Language.CPP),
        ("c++2a", Language.CPP),
        ("cc", Language.CPP),
        ("  cpp title=main", Language.CPP),
        ("c", Language.C),
        ("C99", Language.C),
        ("python", Language.PYTHON),
        ("py", Language.PYTHON),
        ("Python3", Language.PYTHON),
        ("python 3.11", Language.PYTHON),
        ("{.python}", Language.PYTHON),
        ("pypy3", Language.PYTHON),
    ],
)
def test_an_info_string_names_its_language(info: str, language: Language) -> None:
    found = extract_program(f"Here:\n```{info}\ncode\n```\n", None)
    assert (found.language, found.source, found.reason) == (language, "code\n", "")


@pytest.mark.parametrize("info", ["", "c#", "java", "cpps", "text", "python2", "css", "json"])
def test_other_info_strings_name_no_language(info: str) -> None:
    found = extract_program(f"```{info}\ncode\n```\n", None)
    assert found.source is None
    assert "no fenced block names" in found.reason


@pytest.mark.parametrize(
    ("completion", "language", "source"),
    [
        (CPP + PYTHON, Language.CPP, "int main() {}\n"),
        (CPP + PYTHON, Language.PYTHON, "print(1)\n"),
        (CPP + PYTHON, None, "print(1)\n"),
        (PYTHON + "```py\nlast\n```\n" + CPP, Language.PYTHON, "last\n"),
        (CPP + BARE, Language.CPP, "int main() {}\n"),
        (BARE + PYTHON + TEXT, Language.CPP, "bare\n"),
        (TEXT + PYTHON, Language.CPP, "output\n"),
        (PYTHON + BARE + TEXT, None, "print(1)\n"),
        ("int main() {}", Language.CPP, "int main() {}"),
    ],
)
def test_the_last_block_that_fits_best_is_the_program(
    completion: str, language: Language | None, source: str
) -> None:
    assert _source(completion, language) == source


def test_a_block_of_another_known_language_is_no_program() -> None:
    found = extract_program(PYTHON, Language.CPP)
    assert found.source is None
    assert found.language is Language.CPP
    assert found.reason == "no program found: the last fenced block is python, not cpp"


@pytest.mark.parametrize("completion", ["", " \n\t", "<think>\nint main() {}\n</think>\n"])
def test_a_completion_without_an_answer_is_no_program(completion: str) -> None:
    found = extract_program(completion, Language.CPP)
    assert found.source is None
    assert found.reason == "no program found: the completion holds no answer"


def test_bare_text_is_no_program_where_no_language_is_given() -> None:
    assert _source("print(1)") is None


@pytest.mark.parametrize(
    ("completion", "source"),
    [
        ("```python\nprint(1)", "print(1)"),  # cut off by the length limit
        ("```python\nprint(1)\n``", "print(1)\n``"),
        ("````python\n```\n````\n", "```\n"),  # a shorter fence does not close
        ("```python\na\n`````\n", "a\n"),  # a longer one does
        ("~~~python\n```\n~~~\n", "```\n"),  # nor does another character
        ("```python\nx = '''\n```cpp\n'''\n```\n", "x = '''\n```cpp\n'''\n"),
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)\r\n"),
        ("```python\nprint(1)\n``` \t\nbye", "print(1)\n"),
        ("``` python ```\n```python\na\n```", "a\n"),  # inline code at the start of a line
    ],
)
def test_fences_open_and_close_as_in_markdown(completion: str, source: str) -> None:
    assert _source(completion, Language.PYTHON) == source


def test_a_block_in_a_list_loses_the_indentation_of_its_fence() -> None:
    completion = "1. Do:\n   ```python\n   if x:\n       y()\n\n  z()\n   ```\n"
    assert _source(completion, Language.PYTHON) == "if x:\n    y()\n\nz()\n"


def test_a_stray_fence_does_not_swallow_the_answer_after_it() -> None:
    completion = f"A thought.\n```\nThe solution:\n{PYTHON}"
    assert _source(completion, None) == "print(1)\n"


def test_blank_blocks_do_not_count() -> None:
    assert _source(PYTHON + "```python\n\n```\n```", Language.PYTHON) == "print(1)\n"


@pytest.mark.parametrize(
    "completion",
    [
        f"<think>{CPP}</think>\n{PYTHON}",
        f"{CPP}</think>\n{PYTHON}",  # the opening tag was in the prompt
        f"{PYTHON}<think>\n{CPP}",  # cut off while thinking
        f"<think>a</think>{PYTHON}<think>{CPP}</think>",
        f"<think><think>{CPP}</think>\n{PYTHON}",
        f"<think><think>a</think>{CPP}</think>\n{PYTHON}",
    ],
)
def test_what_is_thought_is_not_answered(completion: str) -> None:
    found = extract_program(completion, None)
    assert (found.language, found.source) == (Language.PYTHON, "print(1)\n")


@given(completion=pieces, language=st.sampled_from([None, *Language]))
def test_any_text_gives_a_program_or_a_reason(completion: str, language: Language | None) -> None:
    found = extract_program(completion, language)
    if found.source is None:
        assert found.reason
    else:
        assert found.source.strip()
        assert found.language is not None
        assert not found.reason


@given(code=st.text(alphabet="ab \n(){}#'", min_size=1).filter(str.strip))
def test_code_comes_out_of_its_fence_as_it_went_in(code: str) -> None:
    assert _source(f"Sure!\n```cpp\n{code}\n```\nDone.", Language.CPP) == code + "\n"


@pytest.mark.parametrize(
    "unit",
    [
        "`",
        "```\n",
        "```cpp\n",
        "~~~`",
        " ",
        "\t\n",
        " ```",
        "   ```py\n",
        "<think>",
        "</think>",
        "`\n",
    ],
)
def test_hostile_completions_take_linear_time(unit: str) -> None:
    completion = unit * (1_000_000 // len(unit))
    begin = time.process_time()
    extract_program(completion, Language.CPP)
    extract_program(completion, None)
    # A quadratic step over a million characters would take minutes; the bound is no benchmark.
    assert time.process_time() - begin < 10
