package main

import (
	"testing"
	"time"
)

func TestFloorPercent(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		live, roots, floor uint64
		want               int
	}{
		{0, 0, 64 * mib, 1600}, // the runtime begins at 4 MiB
		{1 * mib, 0, 64 * mib, 1600},
		{8 * mib, 0, 64 * mib, 700},       // up to 64 MiB
		{8 * mib, 2 * mib, 64 * mib, 560}, // 8 MiB and 5.6 times 10 MiB
		{30 * mib, 10 * mib, 64 * mib, 100},
		{32 * mib, 0, 64 * mib, 100},
		{1 << 40, 1 << 30, 64 * mib, 100},
		{0, 0, 16 * mib, 400},
		{4 * mib, 0, 16 * mib, 300},
		{8 * mib, 0, 16 * mib, 100},
	} {
		if got := floorPercent(tc.live, tc.roots, tc.floor); got != tc.want {
			t.Errorf("%d alive, %d of roots, floor %d: %d %%, want %d %%", tc.live, tc.roots, tc.floor, got, tc.want)
		}
	}
}

// The floor is what is alive and what is allocated in a second, within bounds.
func TestFloorFor(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		live, bytes uint64
		in          time.Duration
		want        uint64
	}{
		{0, 0, 0, leastFloor},
		{10 * mib, 5 * mib, time.Hour, leastFloor},
		{0, 16 * mib, 400 * time.Millisecond, 40 * mib},
		{10 * mib, 60 * mib, 2 * time.Second, 40 * mib},
		{10 * mib, 16 * mib, 50 * time.Millisecond, mostFloor},
		{10 * mib, 16 * mib, 0, mostFloor},
		{100 * mib, 0, time.Second, mostFloor}, // twice what is alive counts
	} {
		if got := floorFor(tc.live, tc.bytes, tc.in); got != tc.want {
			t.Errorf("%d alive, %d bytes in %v: %d, want %d", tc.live, tc.bytes, tc.in, got, tc.want)
		}
	}
}
