"""``tools/soak``: two minutes of it, and that it notices what it is there to notice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from soaklib.content import WrongBytes, verify, words
from soaklib.flat import trend

SOAK = Path(__file__).parents[2] / "tools" / "soak"


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_two_minutes_on_a_full_store() -> None:
    command = [sys.executable, SOAK, "--minutes", "2", "--size", "1G", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    verdict = json.loads(result.stdout)
    assert verdict["problems"] == []
    assert verdict["counts"]["refused"] == 0, "a full store evicts"
    assert verdict["fullest"] > 0.93
    assert verdict["memory"]["is_flat"]
    assert verdict["descriptors"]["is_flat"]
    for name, counts in verdict["by_client"].items():
        assert counts["bytes_written"] > 0, name
        assert counts["bytes_verified"] > 0, name


class TestVerify:
    def test_what_was_written_is_right_wherever_it_is_read(self) -> None:
        whole = words("page", 3, 0, 65_536)
        verify(whole, "page", 3, 0, 65_536)
        verify(whole[512:], "page", 3, 4096, 65_536 - 4096)

    @pytest.mark.parametrize(
        "found",
        [
            words("page", 3, 0, 8184),  # short
            words("page", 2, 0, 8192),  # stale
            words("other", 3, 0, 8192),  # another's
            words("page", 3, 4096, 8192),  # misplaced
            np.zeros(1024, dtype=np.uint64),
            np.concatenate([words("page", 3, 0, 4096), words("page", 2, 4096, 4096)]),  # torn
        ],
    )
    def test_what_was_not_is_noticed(self, found: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> None:
        with pytest.raises(WrongBytes, match="page version 3 at"):
            verify(found, "page", 3, 0, 8192)


class TestTrend:
    def test_noise_is_flat(self) -> None:
        samples = [(float(second), 100.0 + (second % 7)) for second in range(700)]
        assert trend(samples, share=0.05, least=1).is_flat

    def test_a_leak_is_not(self) -> None:
        samples = [(float(second), 100.0 + (second % 7) + second / 50) for second in range(700)]
        found = trend(samples, share=0.05, least=1)
        assert not found.is_flat
        assert found.growth == pytest.approx(14, abs=0.5)

    def test_what_shrinks_is_flat(self) -> None:
        assert trend([(0, 100), (1, 50), (2, 10)], share=0.05, least=1).is_flat

    def test_needs_samples(self) -> None:
        with pytest.raises(ValueError, match="at least 3"):
            trend([(0, 1), (1, 1)], share=0.05, least=1)
