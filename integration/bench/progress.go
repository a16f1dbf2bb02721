package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// progress tells what has been measured and how long the rest will take.
type progress struct {
	rounds int
	left   time.Duration
}

func newProgress(cfg config, rows selection) *progress {
	p := &progress{rounds: cfg.rounds}
	for _, part := range parts {
		if rows.any(part.rows) {
			p.left += part.setup + time.Duration(cfg.rounds)*part.round(cfg, rows)
		}
	}
	return p
}

// step reports one turn of that nominal length.
func (p *progress) step(row string, round int, system, text string, nominal time.Duration) {
	p.left = max(0, p.left-nominal)
	fmt.Fprintf(os.Stderr, "%s  %-11s round %d of %d  %s: %s  (about %s left)\n",
		time.Now().Format(time.TimeOnly), row, round+1, p.rounds, system, text, p.left.Round(time.Second))
}

// begin reports that a part's servers are being started.
func (p *progress) begin(part part) {
	p.left = max(0, p.left-part.setup)
	fmt.Fprintf(os.Stderr, "%s  starting servers for %s\n", time.Now().Format(time.TimeOnly), strings.Join(part.rows, ","))
}
