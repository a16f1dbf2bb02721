package storage

import "time"

// Space says what a node should let in, by what is free on its disk. Reads, and what is in
// flight already, go on in any case.
type Space uint8

const (
	// SpaceAmple: the disk has its reserve.
	SpaceAmple Space = iota
	// SpaceLetGo: below the reserve. No new writes, but small ones that let go of something.
	SpaceLetGo
	// SpaceTight: those too should write as little as they can.
	SpaceTight
	// SpaceNone: nothing. What is left of the log is for what nobody can refuse: votes, hand-overs,
	// entries of other nodes' groups, the seal of a clean shutdown.
	SpaceNone
)

// Space returns what should be let in now. Below the reserve the log's room counts, not the disk's:
// the files that the log has are there even when others have taken the last byte, and while there is
// more, checkpoints give the log its files back.
func (s *Store) Space() Space {
	if !s.full.Load() {
		return SpaceAmple
	}
	room, segment := s.log.room()
	switch {
	case room < segment/4:
		return SpaceNone
	case room < segment/2:
		return SpaceTight
	}
	return SpaceLetGo
}

// Full reports that the disk has less than the reserve free: no new writes
// should be let in, except as Space says.
func (s *Store) Full() bool { return s.full.Load() }

// checkSpace looks at the free space. It takes an eighth more than the reserve
// to count as free again.
func (s *Store) checkSpace() {
	if s.opts.Reserve < 0 {
		s.full.Store(false)
		return
	}
	free, err := s.opts.FS.Free(s.opts.Dir)
	if err != nil {
		s.opts.Logger.Warn("free space unknown", "err", err)
		return
	}
	switch was := s.full.Load(); {
	case !was && free < s.opts.Reserve:
		s.full.Store(true)
		s.opts.Logger.Error("disk is full; writes are refused, reads go on", "free", free, "reserve", s.opts.Reserve)
	case was && free >= s.opts.Reserve+s.opts.Reserve/8:
		s.full.Store(false)
		s.opts.Logger.Info("disk has space again", "free", free)
	}
}

// watchSpace looks once a second: others fill the disk too, and do not tell.
func (s *Store) watchSpace() {
	defer s.done.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-t.C:
			s.checkSpace()
		}
	}
}
