package state

// ring is a queue that keeps its memory.
type ring[T any] struct {
	buf     []T // a power of two of them
	head, n int
}

func (r *ring[T]) len() int { return r.n }

// at returns the i-th oldest.
func (r *ring[T]) at(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(16, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.buf, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = v
}

func (r *ring[T]) pop() T {
	p := r.at(0)
	v := *p
	var zero T
	*p = zero // what it refers to can be collected
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return v
}
