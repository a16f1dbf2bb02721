package pgwire

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/spandb/spand/sql/sqlstate"
)

// metrics of all connections. Connections count for themselves and add their
// counts when they flush, so that a message costs no shared cache line.
type metrics struct {
	open       prometheus.Gauge
	accepted   prometheus.Counter
	refused    *prometheus.CounterVec // by reason
	messages   prometheus.Counter
	received   prometheus.Counter
	sent       prometheus.Counter
	simple     prometheus.Counter
	extended   prometheus.Counter
	errors     *prometheus.CounterVec // by SQLSTATE class
	cancels    prometheus.Counter
	panics     prometheus.Counter
	statements *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "spand", Subsystem: "sql", Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "spand", Subsystem: "sql", Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "spand", Subsystem: "sql",
			Name: "connections", Help: "SQL connections that are open now."}),
		accepted:   counter("connections_total", "SQL connections accepted."),
		refused:    vec("connections_refused_total", "SQL connections that ended before a session was made.", "reason"),
		messages:   counter("messages_received_total", "Protocol messages received from SQL clients."),
		received:   counter("received_bytes_total", "Bytes received from SQL clients."),
		sent:       counter("sent_bytes_total", "Bytes sent to SQL clients."),
		statements: vec("statements_total", "Query messages (simple) and Execute messages (extended) received.", "protocol"),
		errors:     vec("errors_total", "Errors sent to SQL clients, by SQLSTATE class.", "class"),
		cancels:    counter("cancel_requests_total", "Cancel requests that named a connection and its secret."),
		panics:     counter("session_panics_total", "Panics contained in a SQL connection."),
	}
	m.simple = m.statements.WithLabelValues("simple")
	m.extended = m.statements.WithLabelValues("extended")
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.open, m.accepted, m.refused, m.messages, m.received, m.sent,
		m.statements, m.errors, m.cancels, m.panics} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) failed(code sqlstate.Code) {
	class := "XX"
	if len(code) == 5 {
		class = string(code[:2])
	}
	m.errors.WithLabelValues(class).Inc()
}
