"""Tables of builds: what is legal is used, what is not is counted, named by its line and skipped."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mechinterp_runner.context.builder.generate import COLUMNS, generate_builds
from mechinterp_runner.context.builder.table import read_table
from mechinterp_runner.schemas.errors import RequestError

HEADER = "weapon_id,swim_speed_up,run_speed_up,ninja_squid,thermal_ink,object_shredder,count"
REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "builds.parquet"


def written(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "builds.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_equal_builds_are_merged_and_their_counts_added(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "40,10,0,10,0,0,2", "weapon_id_40,10,,10,,,5", "50,57,0,0,0,0,"))
    assert table.builds.weapon_id.tolist() == [40, 50]
    assert table.count.tolist() == [7.0, 1.0]
    assert table.builds.ap[0, COLUMNS.index("ninja_squid")] == 10
    assert table.builds.ap[1, COLUMNS.index("swim_speed_up")] == 57
    assert table.report.lines() == ["3 of 3 rows used (2 builds, 2 kits), 0 skipped"]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("99999,10,0,0,0,0,1", "unknown weapon", "line 3: weapon_id = 99999"),
        ("shooter,10,0,0,0,0,1", "unknown weapon", "line 3: weapon_id = shooter"),
        (",10,0,0,0,0,1", "unknown weapon", "line 3: weapon_id = "),
        ("40,ten,0,0,0,0,1", "not a number", "line 3: swim_speed_up = ten"),
        ("40,7,0,0,0,0,1", "AP that no gear gives", "line 3: swim_speed_up = 7"),
        ("40,-3,0,0,0,0,1", "AP that no gear gives", "line 3: swim_speed_up = -3"),
        ("40,3.5,0,0,0,0,1", "AP that no gear gives", "line 3: swim_speed_up = 3.5"),
        ("40,10,0,3,0,0,1", "AP that no gear gives", "line 3: ninja_squid = 3"),
        ("40,10,0,10,10,0,1", "two main-only abilities in one slot", "ninja_squid = 10, thermal_ink = 10"),
        ("40,57,0,10,0,0,1", "more gear than three mains and nine subs", "swim_speed_up = 57, ninja_squid = 10"),
        ("40,27,3,0,0,0,1", "more gear than three mains and nine subs", "run_speed_up = 3, swim_speed_up = 27"),
        ("40,0,0,0,0,0,1", "no ability at all", "line 3: nothing but zeros"),
        ("40,10,0,0,0,0,0", "count below 1", "line 3: count = 0"),
        ("40,10", "wrong number of cells", "line 3: 2 cells, not 7"),
        ("", "wrong number of cells", "line 3"),
    ],
)
def test_a_bad_row_is_skipped_with_its_line_and_reason(tmp_path: Path, row: str, reason: str, detail: str) -> None:
    report = read_table(written(tmp_path, "40,10,0,10,0,0,2", row, "50,13,0,0,0,0,1")).report
    assert (report.rows, report.used) == (3, 2)
    (skipped,) = report.skipped
    if row:
        assert skipped.reason == reason
        assert detail in skipped.first[0]
    assert skipped.count == 1


def test_an_unknown_ability_spoils_only_the_rows_that_have_it(tmp_path: Path) -> None:
    path = written(tmp_path, "40,10,0", "40,10,3", header="weapon_id,swim_speed_up,swim_spd")
    report = read_table(path).report
    assert report.used == 1
    assert report.skipped[0].first == ("line 3: swim_spd = 3 (did you mean swim_speed_up?)",)
    assert read_table(path, ignore_columns=["swim_spd"]).report.used == 2


def test_columns_that_are_no_abilities_are_set_aside_and_named(tmp_path: Path) -> None:
    report = read_table(written(tmp_path, "40,10,33", header="weapon_id,swim_speed_up,wins")).report
    assert report.used == 1
    assert report.lines()[-1] == "columns ignored: wins"


def test_only_the_first_lines_of_a_reason_are_shown(tmp_path: Path) -> None:
    report = read_table(written(tmp_path, "40,10,0,0,0,0,1", *["40,7,0,0,0,0,1"] * 9)).report
    assert report.skipped[0].count == 9
    assert len(report.skipped[0].first) == 5
    assert report.lines()[1].endswith("; and 4 more)")


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (HEADER, ["40,7,0,0,0,0,1"], "holds no usable build"),
        (HEADER, [], "holds no usable build"),
        ("weapon,swim_speed_up", ["40,3"], "no column 'weapon_id'"),
        ("weapon_id,speed", ["40,3"], "no ability column"),
        ("", [], "is empty"),
    ],
)
def test_a_table_with_nothing_to_use_is_an_error(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_table(written(tmp_path, *rows, header=header))


def test_files_that_are_no_tables_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no table of builds at"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "builds.xlsx").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"\.parquet or a \.csv"):
        read_table(tmp_path / "builds.xlsx")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(RequestError, match=r"broken.parquet cannot be read as parquet"):
        read_table(tmp_path / "broken.parquet")
    (tmp_path / "binary.csv").write_bytes(b"weapon_id,\xff\xfe\n40,3\n")
    with pytest.raises(RequestError, match=r"binary.csv cannot be read as csv"):
        read_table(tmp_path / "binary.csv")


def test_parquet_and_csv_of_the_same_builds_read_the_same(tmp_path: Path) -> None:
    builds = generate_builds(200, np.random.default_rng(0))
    columns = {"weapon_id": builds.weapon_id} | {name: builds.ap[:, i] for i, name in enumerate(COLUMNS)}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    lines = [",".join(map(str, row)) for row in np.stack(list(columns.values()), axis=1)]
    text = written(tmp_path, *lines, header=",".join(columns))
    parquet, csv = read_table(tmp_path / "b.parquet"), read_table(text)
    assert parquet.report.used == 200
    assert np.array_equal(parquet.builds.ap, csv.builds.ap)
    assert np.array_equal(parquet.builds.weapon_id, csv.builds.weapon_id)


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real builds are not at {REAL}")
def test_the_real_builds_are_all_legal() -> None:
    report = read_table(REAL).report
    assert (report.rows, report.used, report.kits) == (45_754, 45_754, 79)
