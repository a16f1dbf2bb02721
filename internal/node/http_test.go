package node

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHTTP(t *testing.T) {
	var sick error
	h := newHTTP(prometheus.NewRegistry(), func() error { return sick }).Handler
	get := func(from, path string) int {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	const near, far = "127.0.0.1:1", "192.0.2.7:1"
	for _, c := range []struct {
		from, path string
		want       int
	}{
		{near, "/metrics", http.StatusOK},
		{near, "/healthz", http.StatusOK},
		{near, "/debug/pprof/", http.StatusOK},
		{near, "/debug/pprof/cmdline", http.StatusOK},
		{far, "/metrics", http.StatusOK}, // needs --insecure to listen there at all
		{far, "/debug/pprof/", http.StatusForbidden},
		{far, "/debug/pprof/heap", http.StatusForbidden},
		{far, "/debug/pprof/cmdline", http.StatusForbidden},
		{far, "/debug/pprof/symbol", http.StatusForbidden},
		{far, "/debug/pprof/trace", http.StatusForbidden},
		{far, "/debug/pprof/profile", http.StatusForbidden},
	} {
		if got := get(c.from, c.path); got != c.want {
			t.Errorf("%s from %s: %d, want %d", c.path, c.from, got, c.want)
		}
	}
	sick = errors.New("shutting down")
	if got := get(near, "/healthz"); got != http.StatusServiceUnavailable {
		t.Errorf("/healthz of a node that does not serve: %d", got)
	}
}
