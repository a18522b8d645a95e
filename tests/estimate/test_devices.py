import pytest

from minitron.estimate.devices import DEVICES, find_device, usable_bytes


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_a_profile_says_where_it_is_from_and_holds_plausible_numbers(device: object) -> None:
    profile = find_device(device.name)  # type: ignore[attr-defined]
    assert profile.source
    assert 20 < profile.visible_gib < 142
    assert profile.bandwidth_gb_s is not None
    assert profile.bf16_tflops is not None
    assert 300 <= profile.bandwidth_gb_s <= 4800
    # Roofline ridge of all these cards: between 100 and 600 operations a byte.
    assert 100 < profile.bf16_tflops * 1000 / profile.bandwidth_gb_s < 600
    assert profile.fp8_tflops is None or profile.fp8_tflops == pytest.approx(2 * profile.bf16_tflops, rel=0.01)


def test_an_unknown_gpu_is_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match="gpu must be one of a10g, l4, rtx4090"):
        find_device("a100")


@pytest.mark.parametrize("reserved", [-1.0, float("inf"), float("nan")])
def test_a_reserve_that_is_no_size_is_refused(reserved: float) -> None:
    with pytest.raises(ValueError, match="reserved GiB must be a number that is not negative"):
        usable_bytes(10**10, utilization=0.9, reserved_gib=reserved)
