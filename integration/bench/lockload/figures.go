package lockload

import (
	"math"
	"slices"
	"time"
)

// Figures are what one row measured, by name: rates per second, times in milliseconds,
// memory in MiB. The names are those of the works in this package.
type Figures map[string]float64

// percentile is the smallest of the times that at least p per cent of them do not exceed, in
// milliseconds; NaN if there are none. It sorts them.
func percentile(times []time.Duration, p float64) float64 {
	if len(times) == 0 {
		return math.NaN()
	}
	slices.Sort(times)
	rank := int(math.Ceil(p / 100 * float64(len(times))))
	return milliseconds(times[max(rank, 1)-1])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
