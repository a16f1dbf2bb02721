package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func TestContextTravels(t *testing.T) {
	ctx := Start(context.Background())
	id := ID(ctx)
	if len(id) != 32 || strings.Trim(id, "0") == "" {
		t.Fatalf("trace id %q", id)
	}
	if ID(Start(ctx)) != id {
		t.Error("a second Start began another trace")
	}
	if ID(Start(context.Background())) == id {
		t.Error("two traces with one id")
	}
	sampled := trace.SpanContextFromContext(ctx).WithTraceFlags(trace.FlagsSampled)
	msg := append(Append([]byte("head"), trace.ContextWithSpanContext(ctx, sampled)), "tail"...)
	r, rest, ok := Take(msg[4:])
	if !ok || string(rest) != "tail" {
		t.Fatalf("%v, rest %q", ok, rest)
	}
	got := trace.SpanContextFromContext(r.Join(context.Background()))
	if !got.Equal(sampled.WithRemote(true)) {
		t.Errorf("%+v became %+v", sampled, got)
	}
	r, rest, ok = Take(append(Append(nil, context.Background()), "tail"...))
	if !ok || string(rest) != "tail" || r.Join(context.Background()) != context.Background() {
		t.Error("no trace became one")
	}
	for n := range size + 1 {
		if _, _, ok := Take(msg[4 : 4+n]); ok {
			t.Errorf("a trace context of %d bytes was taken", n)
		}
	}
	if _, _, ok := Take(bytes.Repeat([]byte{7}, 100)); ok {
		t.Error("a trace context of another length was taken")
	}
}

func TestLogLinesBearTheTrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(Handler(slog.NewJSONHandler(&out, nil))).With("node", "n1")
	ctx := Start(context.Background())
	log.InfoContext(ctx, "with")
	if !strings.Contains(out.String(), `"node":"n1","trace_id":"`+ID(ctx)+`"`) {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	log.Info("without")
	if strings.Contains(out.String(), "trace") {
		t.Errorf("%s", out.String())
	}
}

func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Start(context.Background())
	}
}
