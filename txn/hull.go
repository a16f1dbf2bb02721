package txn

import (
	"bytes"
	"context"

	"github.com/spandb/spand/internal/keys"
)

// hull is the smallest range that holds every key a transaction has locked at
// one tablet. Both its ends are locked keys (or the ends of locked ranges), so
// when the tablet splits inside it, both sides hold locks. It owns its slices.
type hull struct {
	lo   keys.Key // nil: empty
	hi   keys.Key
	incl bool // hi itself is locked
}

func (h *hull) addPoint(k keys.Key) { h.add(k, k, true) }

func (h *hull) addSpan(s keys.Span) {
	if s.IsPoint() {
		h.add(s.Start, s.Start, true)
	} else {
		h.add(s.Start, s.End, false)
	}
}

func (h *hull) add(lo, hi keys.Key, incl bool) {
	if h.lo == nil {
		// One copy serves both ends of a point.
		h.lo = append(make(keys.Key, 0, len(lo)), lo...)
		h.hi, h.incl = h.lo, incl
		if !bytes.Equal(lo, hi) {
			h.hi = bytes.Clone(hi)
		}
		return
	}
	if bytes.Compare(lo, h.lo) < 0 {
		h.lo = bytes.Clone(lo)
	}
	switch c := bytes.Compare(hi, h.hi); {
	case c > 0:
		h.hi, h.incl = bytes.Clone(hi), incl
	case c == 0:
		h.incl = h.incl || incl
	}
}

// reaches reports whether h goes on at or behind k.
func (h *hull) reaches(k keys.Key) bool {
	c := bytes.Compare(h.hi, k)
	return c > 0 || c == 0 && h.incl
}

// overlaps reports whether h and span share a key.
func (h *hull) overlaps(span keys.Span) bool {
	return h.lo != nil && bytes.Compare(h.lo, span.End) < 0 && h.reaches(span.Start)
}

// clip returns the part of h inside span, which it overlaps.
func (h *hull) clip(span keys.Span) hull {
	out := *h
	if bytes.Compare(out.lo, span.Start) < 0 {
		out.lo = span.Start
	}
	if out.reaches(span.End) {
		out.hi, out.incl = span.End, false
	}
	return out
}

// tablets calls f for each tablet that h reaches into, in key order.
func (c *Client) tablets(ctx context.Context, h *hull, f func(*keys.Descriptor) error) error {
	for k := h.lo; k != nil; {
		desc, err := c.cfg.Router.Lookup(ctx, k)
		if err != nil {
			return err
		}
		if err := f(&desc); err != nil {
			return err
		}
		if !h.reaches(desc.Span.End) {
			return nil
		}
		k = desc.Span.End
	}
	return nil
}
