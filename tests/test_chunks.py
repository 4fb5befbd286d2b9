"""How large a part of a batch may be."""

import pytest

from ovsw_jax.products import _chunks

MEGABYTE = 2**20


@pytest.mark.parametrize(
  ("sizes", "expected"),
  (
    (("32K", "32K", "1024K", "65536K"), 64 * MEGABYTE),
    (("64K", "48K", "2048K"), 32 * MEGABYTE),  # no third level
    (("491520K",), 256 * MEGABYTE),
    (("a page",), 32 * MEGABYTE),
    ((), 32 * MEGABYTE),
  ),
)
def test_the_largest_cache_within_bounds(tmp_path, sizes, expected):
  for index, size in enumerate(sizes):
    folder = tmp_path / f"index{index}"
    folder.mkdir()
    (folder / "size").write_text(size + "\n")
  assert _chunks.cache_bytes(tmp_path) == expected


def test_a_machine_that_describes_no_cache(tmp_path):
  assert _chunks.cache_bytes(tmp_path / "cpu0") == 32 * MEGABYTE
