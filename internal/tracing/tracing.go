// Package tracing carries a W3C trace context through the process and between
// nodes, so that whatever is logged for a statement, on any node, bears the
// statement's trace id. The context's type is OpenTelemetry's, whose API half this
// package alone imports: a tracer that records spans can be put behind it without
// touching the rooms. Until there is one, nothing is sampled, and a context costs
// two small allocations where it is made and 26 bytes in a call.
package tracing

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

// Start begins a trace: ctx with ids of its own, unless it carries some already.
func Start(ctx context.Context) context.Context {
	if trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	var cfg trace.SpanContextConfig
	// Ids need to be unique, not secret; 0 is not an id.
	binary.BigEndian.PutUint64(cfg.TraceID[:], rand.Uint64())
	binary.BigEndian.PutUint64(cfg.TraceID[8:], rand.Uint64()|1)
	binary.BigEndian.PutUint64(cfg.SpanID[:], rand.Uint64()|1)
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(cfg))
}

// Continue returns ctx as part of the trace that from carries.
func Continue(ctx, from context.Context) context.Context {
	if sc := trace.SpanContextFromContext(from); sc.IsValid() {
		return trace.ContextWithSpanContext(ctx, sc)
	}
	return ctx
}

// ID returns the trace id that ctx carries in hexadecimal, "" if none.
func ID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

// The encoded form is a length, 0 or size, and what traceparent has: trace id,
// span id, flags.
const size = 16 + 8 + 1

// Append appends the trace context that ctx carries to a message.
func Append(b []byte, ctx context.Context) []byte {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return append(b, 0)
	}
	tid, sid := sc.TraceID(), sc.SpanID()
	b = append(b, size)
	b = append(b, tid[:]...)
	b = append(b, sid[:]...)
	return append(b, byte(sc.TraceFlags()))
}

// Remote is the trace context of a message; the zero Remote is none.
type Remote struct{ sc trace.SpanContext }

// Take takes what Append wrote off the front of b; ok is false when b is malformed.
func Take(b []byte) (r Remote, rest []byte, ok bool) {
	switch {
	case len(b) > 0 && b[0] == 0:
		return Remote{}, b[1:], true
	case len(b) <= size || b[0] != size:
		return Remote{}, nil, false
	}
	cfg := trace.SpanContextConfig{TraceFlags: trace.TraceFlags(b[size]), Remote: true}
	copy(cfg.TraceID[:], b[1:])
	copy(cfg.SpanID[:], b[17:])
	return Remote{trace.NewSpanContext(cfg)}, b[1+size:], true
}

// Join returns ctx as part of the trace that a message came with.
func (r Remote) Join(ctx context.Context) context.Context {
	if !r.sc.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, r.sc)
}

// Handler adds the trace id of the context that a record was logged with.
func Handler(h slog.Handler) slog.Handler { return handler{h} }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := ID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(as []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(as)} }
func (h handler) WithGroup(name string) slog.Handler    { return handler{h.Handler.WithGroup(name)} }
