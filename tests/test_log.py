"""The thread's training logs, as chapters/cnn/log.csv keeps them."""

import csv

import pytest

from course_lib.records import CHAPTERS

PATH = CHAPTERS / "cnn" / "log.csv"
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
ASKER, ANSWER = "asker", "answer 1"


def read() -> dict[str, dict[int, dict[str, str]]]:
    """log -> epoch -> row, the figures as they are written."""
    with open(PATH, encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if line[0] != "#"))
    logs: dict = {}
    for row in rows:
        logs.setdefault(row["log"], {})[int(row["epoch"])] = row
    assert sum(len(log) for log in logs.values()) == len(rows), "an epoch stands there twice"
    return logs


@pytest.fixture(scope="module")
def logs():
    return read()


def column(log, figure):
    return [float(row[figure]) for row in log.values()]


def test_the_file_names_its_source_and_its_licence():
    comments = [line for line in PATH.read_text(encoding="utf-8").splitlines() if line[0] == "#"]
    note = " ".join(line.removeprefix("# ") for line in comments)
    for words in ("user4779", "T3am5hark", "cc by-sa 3.0 with attribution required"):
        assert words in note


def test_the_logs_have_their_epochs_in_order(logs):
    assert list(logs) == [ASKER, ANSWER]
    assert list(logs[ASKER]) == list(range(1, 51))
    assert list(logs[ANSWER]) == [1, 2, 3, 25, 50]  # the answer prints no others


@pytest.mark.parametrize("log", [ASKER, ANSWER])
def test_every_figure_has_four_decimals_and_its_range(logs, log):
    for row in logs[log].values():
        assert set(row) == {"log", "epoch", *FIGURES}
        for figure in FIGURES:
            assert len(row[figure].partition(".")[2]) == 4
            low, high = (0.1, 1.0) if figure.endswith("accuracy") else (0.0, 2.3026)
            assert low < float(row[figure]) < high


@pytest.mark.parametrize(("log", "images"), [(ASKER, 4900), (ANSWER, 10_000)])
def test_validation_accuracies_are_whole_numbers_of_images(logs, log, images):
    for share in column(logs[log], "val_accuracy"):
        assert round(round(images * share) / images, 4) == share


def test_the_training_loss_falls_at_every_step(logs):
    for log in logs.values():
        losses = column(log, "train_loss")
        assert losses == sorted(losses, reverse=True)


def test_first_last_and_extreme_figures_are_those_of_the_text(logs):
    asker = logs[ASKER]
    assert [asker[1][f] for f in FIGURES] == ["2.1453", "0.2010", "1.9812", "0.2959"]
    assert [asker[50][f] for f in FIGURES] == ["1.0024", "0.7070", "1.5078", "0.6039"]
    assert min((row["val_loss"], epoch) for epoch, row in asker.items()) == ("1.4024", 36)
    assert max((row["val_accuracy"], epoch) for epoch, row in asker.items()) == ("0.6159", 38)


def test_what_the_people_in_the_thread_quote_is_there(logs):
    asker, answer = logs[ASKER], logs[ANSWER]
    assert min(column(asker, "val_loss")) == pytest.approx(1.4, abs=0.005)  # "1.4"
    assert column(asker, "val_accuracy")[-1] == pytest.approx(0.60, abs=0.005)  # "60 %"
    assert answer[25]["val_accuracy"] == "0.7680"  # "almost 77 %"
    assert answer[50]["val_accuracy"] == "0.7751"  # "78 %", at the top of the answer
