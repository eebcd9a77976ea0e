"""Canaries of every record, in a file of their own: the workers of pytest share out whole files."""

from dataclasses import replace

import pytest

from course_lib import experiments, records
from course_lib.training import TrainConfig


def test_the_canary_notices_a_change_in_training():
    config = TrainConfig(model="mlp", model_options={"widths": (3072, 4, 10)})
    before = experiments.canary(config)
    assert len(before) == experiments.CANARY_STEPS and before == experiments.canary(config)
    assert experiments.canary(replace(config, momentum=0.8)) != before


@pytest.mark.parametrize("study", sorted(path.stem for path in records.RESULTS.glob("*.json")))
def test_canaries_of_the_records_still_sing(study):
    arms = experiments.all_studies()[study.removesuffix(records.GPU)].arms
    canaries = records.load(study)["canaries"]
    kept = [arm for arm in arms if arm in canaries]
    assert kept or not arms, "a record of runs needs a canary of one arm at least"
    assert not kept or any(canaries[arm] for arm in kept), "silent canaries cannot notice a thing"
    for arm in kept[: experiments.MAX_CANARIES]:  # older records hold more
        # see experiments._as_long: a record may keep fewer
        sung = experiments.canary(arms[arm])[: len(canaries[arm])]
        assert sung == pytest.approx(canaries[arm], rel=1e-3), arm
