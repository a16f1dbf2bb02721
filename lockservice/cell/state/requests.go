package state

import (
	"cmp"
	"hash/crc64"
	"slices"

	"github.com/spandb/spand/truetime"
)

// answer is what is kept of a numbered request's result, enough to give it again together
// with the request, which is sent again too.
type answer struct {
	number     uint64
	index      uint64 // of the command
	kind       Kind
	instance   uint64
	generation uint64 // of contents, after SetACL of the ACL
	revision   uint64
	modified   truetime.Timestamp
	created    bool
	err        *Error
}

// maxAnswers bounds the answers kept for a session that does not say which it has received:
// the oldest is forgotten first, and requests up to its number that are not remembered are refused from
// then on, as nobody knows whether they were carried out.
const maxAnswers = 1024

// numbered carries a request out, unless the session has sent it before: then the first
// answer is given again.
func (a *change) numbered(do func() (*node, bool, *Error)) {
	c := a.c
	sess, err := a.asking()
	if err != nil {
		a.res.Err = err
		return
	}
	if sess == nil || c.Request == 0 {
		if a.spares() {
			return
		}
		a.answer(do())
		return
	}
	sess.received(c.Answered)
	i, there := slices.BinarySearchFunc(sess.have().answers, c.Request, func(w answer, n uint64) int { return cmp.Compare(w.number, n) })
	switch {
	case there:
		a.repeat(&sess.answers[i])
		return
	case c.Request < sess.answered:
		a.res.Err = refuse(BadRequest, c.Path, "request %d of session %d was answered and is forgotten", c.Request, sess.id)
		return
	case sess.late(c.Request):
		a.res.Err = refuse(BadRequest, c.Path, "request %d of session %d comes too late: of its requests below %d, which were too many, some answers are forgotten", c.Request, sess.id, sess.forgotten)
		return
	}
	if a.spares() {
		return
	}
	n, created, err := do()
	a.answer(n, created, err)
	w := answer{number: c.Request, index: a.index, kind: c.Kind, created: created && err == nil, err: err}
	if n != nil {
		w.instance, w.generation, w.revision, w.modified = n.instance, n.contentGen, n.revision, n.modified
		if c.Kind == SetACL {
			w.generation = n.aclGen
		}
	}
	sess.answers = slices.Insert(sess.answers, i, w)
	if len(sess.answers) > maxAnswers {
		sess.forgetAnswer(i)
	}
}

// forgetAnswer forgets the oldest answer, but not the one at keep.
func (t *things) forgetAnswer(keep int) {
	oldest := -1
	for i := range t.answers {
		if i != keep && (oldest < 0 || t.answers[i].index < t.answers[oldest].index) {
			oldest = i
		}
	}
	t.forgotten = max(t.forgotten, t.answers[oldest].number+1)
	t.answers = slices.Delete(t.answers, oldest, oldest+1)
}

// late reports whether a request that is not remembered may have been carried out all the same.
func (t *things) late(number uint64) bool { return number < max(t.answered, t.forgotten) }

// spares reports whether the command is a probe that nothing refuses: it leaves all as it is.
func (a *change) spares() bool {
	a.res.Spared = a.c.Probe && a.refusal() == nil
	return a.res.Spared
}

// Answered reports whether a session's request has been carried out: sent again, it changes nothing.
func (s *State) Answered(id SessionID, request uint64) bool {
	sess, ok := s.sessions.Get(id)
	if !ok || sess.things == nil || request == 0 {
		return false
	}
	_, there := slices.BinarySearchFunc(sess.answers, request, func(w answer, n uint64) int { return cmp.Compare(w.number, n) })
	return there
}

// received forgets the answers to requests below number.
func (s *session) received(number uint64) {
	if s.things == nil && number == 0 {
		return
	}
	t := s.have()
	t.answered = max(t.answered, number)
	i := 0
	for i < len(t.answers) && t.answers[i].number < t.answered {
		i++
	}
	t.answers = slices.Delete(t.answers, 0, i)
}

func (a *change) answer(n *node, created bool, err *Error) {
	if err != nil {
		a.res.Err = err
		return
	}
	a.res.Created = created
	if n != nil {
		a.res.Node = a.info(n)
	}
}

// repeat answers a request as it was answered before. Open's answer says what is there, and so
// may be newer. SetContents' must not: whoever takes another's generation for
// that of its own contents overwrites the other's next.
func (a *change) repeat(w *answer) {
	c := a.c
	if w.kind != c.Kind {
		a.res.Err = refuse(BadRequest, c.Path, "request %d of session %d was another: requests that differ have different numbers", c.Request, c.Session)
		return
	}
	a.res.Err, a.res.Created = w.err, w.created
	if w.err != nil || c.Kind == Delete {
		return
	}
	i := &Info{Path: c.Path, Dir: c.Dir, Ephemeral: c.Ephemeral, Instance: w.instance, ContentGen: w.generation}
	if n := a.nodes[c.Path]; n != nil && n.instance == w.instance {
		i = a.info(n)
	}
	a.res.Node = i
	if c.Kind == Open {
		return
	}
	i.Revision, i.Modified = w.revision, w.modified
	switch c.Kind {
	case SetContents:
		i.ContentGen, i.Length, i.Checksum = w.generation, uint64(len(c.Contents)), crc64.Checksum(c.Contents, crcTable)
	case SetACL:
		i.ACLGen = w.generation
		if c.ACL != nil {
			i.ACL = *c.ACL
		}
	}
}
