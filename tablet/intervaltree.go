package tablet

// intervalTree keeps half-open ranges [start, end) and finds those that overlap
// a range or hold a key: a treap ordered by (start, id), every node knowing the
// greatest end below it. The zero value is empty. Not safe for concurrent use.
type intervalTree[T any] struct {
	root *intervalNode[T]
	n    int
	seed uint32
}

type intervalNode[T any] struct {
	start, end  string
	id          uint64 // unique among equal starts
	prio        uint32
	maxEnd      string
	left, right *intervalNode[T]
	value       T
}

func (t *intervalTree[T]) len() int { return t.n }

func (n *intervalNode[T]) before(start string, id uint64) bool {
	if n.start != start {
		return n.start < start
	}
	return n.id < id
}

func (n *intervalNode[T]) update() {
	n.maxEnd = n.end
	if n.left != nil && n.left.maxEnd > n.maxEnd {
		n.maxEnd = n.left.maxEnd
	}
	if n.right != nil && n.right.maxEnd > n.maxEnd {
		n.maxEnd = n.right.maxEnd
	}
}

// insert adds a range; (start, id) must be new.
func (t *intervalTree[T]) insert(start, end string, id uint64, v T) {
	// xorshift: a treap wants cheap, not good, randomness.
	if t.seed == 0 {
		t.seed = 2463534242
	}
	t.seed ^= t.seed << 13
	t.seed ^= t.seed >> 17
	t.seed ^= t.seed << 5
	n := &intervalNode[T]{start: start, end: end, id: id, prio: t.seed, maxEnd: end, value: v}
	l, r := split(t.root, start, id)
	t.root = merge(merge(l, n), r)
	t.n++
}

// remove drops the range inserted under (start, id).
func (t *intervalTree[T]) remove(start string, id uint64) bool {
	root, ok := removeNode(t.root, start, id)
	if ok {
		t.root = root
		t.n--
	}
	return ok
}

func removeNode[T any](n *intervalNode[T], start string, id uint64) (*intervalNode[T], bool) {
	if n == nil {
		return nil, false
	}
	if n.start == start && n.id == id {
		return merge(n.left, n.right), true
	}
	var ok bool
	if n.before(start, id) {
		n.right, ok = removeNode(n.right, start, id)
	} else {
		n.left, ok = removeNode(n.left, start, id)
	}
	n.update()
	return n, ok
}

// split divides by (start, id): left gets what lies before it.
func split[T any](n *intervalNode[T], start string, id uint64) (l, r *intervalNode[T]) {
	if n == nil {
		return nil, nil
	}
	if n.before(start, id) {
		n.right, r = split(n.right, start, id)
		n.update()
		return n, r
	}
	l, n.left = split(n.left, start, id)
	n.update()
	return l, n
}

func merge[T any](l, r *intervalNode[T]) *intervalNode[T] {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.prio < r.prio:
		l.right = merge(l.right, r)
		l.update()
		return l
	}
	r.left = merge(l, r.left)
	r.update()
	return r
}

// visit calls f, in order of start, for every range that overlaps [start, end);
// with an empty end, for every one that holds the key start. It stops when f
// returns false, and then returns false. f must not change the tree.
func (t *intervalTree[T]) visit(start, end string, f func(T) bool) bool {
	if t.root == nil {
		return true
	}
	return visitNode(t.root, start, end, f)
}

func visitNode[T any](n *intervalNode[T], start, end string, f func(T) bool) bool {
	if n == nil || n.maxEnd <= start {
		return true
	}
	if !visitNode(n.left, start, end, f) {
		return false
	}
	if end == "" {
		if n.start > start {
			return true
		}
	} else if n.start >= end {
		return true
	}
	if n.end > start && !f(n.value) {
		return false
	}
	return visitNode(n.right, start, end, f)
}
