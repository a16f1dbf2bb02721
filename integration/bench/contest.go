package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// race is one kind of work in which systems take turns, the peer first.
type race struct {
	row     string
	systems []*system
	measure func(context.Context, *system) (sample, error)
	nominal time.Duration // of one turn

	// How figures read: their unit and decimals, and whether fewer is better.
	unit     string
	decimals int
	fewer    bool
	retries  bool // samples tell of them
	unlike   bool // systems do different work for it: no ratio

	samples [][]sample // by system, then by round
}

// sample is what one turn measured.
type sample struct {
	figure  float64
	retried float64 // per cent of the transactions
}

// contest runs those races whose rows are wanted.
func (b *bench) contest(ctx context.Context, races []*race) error {
	for _, r := range races {
		r.samples = make([][]sample, len(r.systems))
	}
	for round := range b.cfg.rounds {
		for _, r := range races {
			if !b.rows[r.row] {
				continue
			}
			for i, s := range r.systems {
				if err := b.rest(ctx); err != nil {
					return err
				}
				m, err := r.measure(ctx, s)
				if err != nil {
					return fmt.Errorf("%s: %w", r.row, err)
				}
				r.samples[i] = append(r.samples[i], m)
				text := series{m.figure}.cell(r.decimals, r.unit)
				if m.retried > 0 {
					text += fmt.Sprintf(", %.2f %% retried", m.retried)
				}
				b.progress.step(r.row, round, s.name, text, r.nominal)
			}
		}
	}
	return nil
}

// rest waits until our servers have nothing left to do: a checkpoint or a
// vacuum of the last turn must not count as the next one's work.
func (b *bench) rest(ctx context.Context) error {
	const look, longest = 500 * time.Millisecond, 20 * time.Second
	for began := time.Now(); time.Since(began) < longest; {
		before := b.cpuTime()
		if err := pause(ctx, look); err != nil {
			return err
		}
		if b.cpuTime()-before < look/20 {
			return nil
		}
	}
	return nil
}

// pause sleeps unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// figures of one system over the rounds.
func (r *race) figures(system int) (f, retried series) {
	if system >= len(r.samples) {
		return nil, nil
	}
	for _, m := range r.samples[system] {
		f, retried = append(f, m.figure), append(retried, m.retried)
	}
	return f, retried
}

// series is one figure over the rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// cell shows the median, and the spread where there is one.
func (s series) cell(decimals int, unit string) string {
	text := number(s.median(), decimals) + unit
	if len(s) > 1 {
		text += fmt.Sprintf(" (%s..%s)", number(slices.Min(s), decimals), number(slices.Max(s), decimals))
	}
	return text
}
