package integration

import "sync"

// logTail keeps the end of a log.
type logTail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const (
	logKept  = 16 << 10
	logShown = 4000
)

// Write implements io.Writer.
func (l *logTail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 2*logKept {
		l.buf = append(l.buf[:0], l.buf[len(l.buf)-logKept:]...)
	}
	l.buf = append(l.buf, b...)
	return len(b), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf[max(0, len(l.buf)-logShown):])
}
