package main

import "testing"

func TestFloorPercent(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		live, roots uint64
		want        int
	}{
		{0, 0, 1600}, // the runtime begins at 4 MiB
		{1 * mib, 0, 1600},
		{8 * mib, 0, 700},       // up to 64 MiB
		{8 * mib, 2 * mib, 560}, // 8 MiB and 5.6 times 10 MiB
		{30 * mib, 10 * mib, 100},
		{32 * mib, 0, 100},
		{1 << 40, 1 << 30, 100},
	} {
		if got := floorPercent(tc.live, tc.roots); got != tc.want {
			t.Errorf("%d alive, %d of roots: %d %%, want %d %%", tc.live, tc.roots, got, tc.want)
		}
	}
}
