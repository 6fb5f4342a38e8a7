from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.values import INFINITY, Percent, Refused, ResourceLimit, Usec, quantities

K, M, G = 1024, 1024**2, 1024**3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("512M", 512 * M), ("1.5G", 1536 * M), (" 4.8K ", 4915), ("3B", 3),
        ("3.5M 3K 2", 3_673_090), ("1 M", M), ("1G512M", 1536 * M), ("12P", 12 * 1024**5),
        ("15E", 15 * 1024**6), ("1.9", 1), ("007", 7),
        (str(2**64 - 2), 2**64 - 2),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert quantities.size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "12x",
        "123bogus",
        "1e3",
        "0x10",
        "1KB",
        "1KiB",
        "1k",
        "M",
        "1M 1G",
        "1K1K",
        ".5K",
        "1.5.5",
        "1.",
        ".",
        "1.5x",
        "1,5",
        "\u0661",
        "infinity",
        "inf",
        "1 2",
        "1_000",
        str(2**64),
        str(2**64 - 1),
        "16E",
        "9" * 5000,
        "1" + "0" * 5000 + "K",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        quantities.size(text)


def test_bandwidths_have_the_base_1000() -> None:
    assert quantities.decimal_size("1.5M") == 1_500_000


@pytest.mark.parametrize(
    ("text", "usec"),
    [
        # All but the last two as `systemd-analyze timespan` of systemd 252 has them.
        ("90", 90_000_000), ("1.5h", 5_400_000_000), ("1.5h .5s", 5_400_500_000),
        (".5s", 500_000), ("1.5h 1", 5_401_000_000), ("1month", 2_629_800_000_000),
        ("5 us", 5), ("1 2", 3_000_000), ("12.34s.56", 12_900_000), (" infinity ", INFINITY),
        ("1y", 31_557_600_000_000), ("1M", 2_629_800_000_000), ("1m", 60_000_000),
        ("3 weeks2d", 1_987_200_000_000), ("5µs", 5), ("5μs", 5), ("0.0000019s", 1),
        ("1hour30minutes", 5_400_000_000), ("1h 30min", 5_400_000_000),
        ("300ms20s 5day", 432_020_300_000), ("0", 0),
    ],
)  # fmt: skip
def test_spans(text: str, usec: int) -> None:
    assert quantities.span(text) == usec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.",
        "5ns",
        "12.34.56",
        "infinity2",
        "-1",
        "1.5.5s",
        "584543y",
        "1e3",
        "0x10",
        "1H",
        "h",
        "1 parsec",
        "s1",
        "1s,",
        "\u0663s",
        "9" * 5000,
    ],
)
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        quantities.span(text)


def test_no_time_at_all_is_refused() -> None:
    for text in ("0", "0s", "0.0000001s"):
        with pytest.raises(Refused):
            quantities.positive_span(text)


@given(st.integers(0, INFINITY))
def test_spans_read_back(usec: int) -> None:
    assert quantities.span(str(Usec(usec))) == usec


@given(st.integers(0, INFINITY - 1))
def test_sizes_read_back(size: int) -> None:
    assert quantities.size(quantities.format_size(size)) == size
    assert quantities.decimal_size(quantities.format_decimal_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1K"),
        (1536 * M, "1536M"),
        (2 * G, "2G"),
        (INFINITY, "infinity"),
        (1024**7 - 1024**6, "1023E"),
    ],
)
def test_sizes_are_written_with_the_largest_exact_suffix(size: int, text: str) -> None:
    assert quantities.format_size(size) == text


@pytest.mark.parametrize(
    ("text", "permyriad"),
    [
        ("50%", 5000),
        ("12.34%", 1234),
        ("0.01%", 1),
        (" 200% ", 20_000),
        ("7.5%", 750),
        ("21474836.47%", 2**31 - 1),
    ],
)
def test_percentages(text: str, permyriad: int) -> None:
    assert quantities.percent(text) == Percent(permyriad=permyriad)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%",
        "50",
        "-5%",
        "5%%",
        "5% 6%",
        "1.234%",
        "1.%",
        ".5%",
        "0%",
        "0.00%",
        "5 %",
        "x%",
        "21474836.48%",
        "9" * 5000 + "%",
        "\u0665%",
    ],
)
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        quantities.percent(text)


@given(st.integers(1, 2**31 - 1))
def test_percentages_read_back(permyriad: int) -> None:
    share = Percent(permyriad=permyriad)
    assert quantities.percent(str(share)) == share


def test_a_share_is_at_most_all() -> None:
    parse = quantities.or_percent(quantities.size)
    assert parse("100%") == Percent(permyriad=10_000)
    assert parse("100") == 100
    with pytest.raises(Refused):
        parse("100.01%")


def test_a_share_of_a_total_is_rounded_down() -> None:
    assert Percent(permyriad=1250).of(32_767) == 4095


@pytest.mark.parametrize(
    ("parse", "text", "soft", "hard"),
    [
        (quantities.count, "5", 5, 5),
        (quantities.or_infinity(quantities.count), "5:infinity", 5, INFINITY),
        (quantities.or_infinity(quantities.size), "4G:16G", 4 * G, 16 * G),
        (quantities.or_infinity(quantities.size), "0", 0, 0),
        # The next five as systemd 252 shows them.
        (quantities.cpu_seconds, "1500ms", 2, 2),
        (quantities.cpu_seconds, "infinity", INFINITY, INFINITY),
        (quantities.microseconds, "5:7ms", 5, 7000),
        (quantities.nice_limit, "+19:-20", 1, 40),
        (quantities.nice_limit, "0:40", 0, 40),
    ],
)
def test_resource_limits(parse: object, text: str, soft: int, hard: int) -> None:
    limit = quantities.resource_limit(parse)(text)  # type: ignore[arg-type]
    assert limit == ResourceLimit(soft=soft, hard=hard)


@pytest.mark.parametrize("text", ["", ":", "1:", ":1", "1:2:3", "5:3", "x", "1 2", "-1", "+1"])
def test_what_is_no_resource_limit_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        quantities.resource_limit(quantities.count)(text)


@pytest.mark.parametrize("text", ["41", "+20", "-21", "infinity", "", "+", "-", "+-1", "++1"])
def test_what_is_no_nice_limit_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        quantities.nice_limit(text)
