package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/version"
)

// The cluster's version (package version) is raised in three steps. Every member
// notes, in its data directory, that the cluster may have the version, which keeps
// programs that cannot run it from ever opening that directory again. When all have,
// the record in the directory tablet is written. Then, in any order, the nodes read
// it and let their tablets propose what came with it. So whoever meets such a
// command knows it, whatever crashes or is rolled back in between.

// versionEvery separates looks at the record. Who raises the version tells the
// others; this is for those who did not hear it. versionRetry follows a failure.
const (
	versionEvery = 5 * time.Minute
	versionRetry = 2 * time.Second
)

const versionFormat = 1 // of callAcceptVersion's payload

// followVersion keeps up with the cluster's version, and gives it one when it is new.
func (n *Node) followVersion(ctx context.Context) {
	for said := ""; ; {
		pause := versionEvery
		if err := n.learnVersion(ctx); err != nil && ctx.Err() == nil {
			pause = versionRetry
			if err.Error() != said { // one line per cause
				said = err.Error()
				n.log.Warn("the cluster's version is not known yet", "err", err)
			}
		}
		select {
		case <-time.After(pause):
		case <-n.versionTold:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) learnVersion(ctx context.Context) error {
	v, err := n.dir.Version(ctx)
	switch {
	case err != nil:
		return err
	case v == 0: // a new cluster begins with the highest that all can run
		_, err = n.raiseVersion(ctx, 0)
		return err
	}
	return n.adoptVersion(v)
}

// adoptVersion lets this node use what came with v, which the cluster has.
func (n *Node) adoptVersion(v version.Version) error {
	if err := n.store.RaiseVersion(v); err != nil {
		if ve := (*version.Error)(nil); errors.As(err, &ve) {
			n.fail(err) // it could be asked to run what it does not know
		}
		return err
	}
	if v > n.version.Active() {
		n.log.Info("the cluster's version rises", "version", v)
	}
	n.version.Raise(v)
	return nil
}

// raiseVersion gives the cluster version v, or for 0 the highest that all members
// can run, and returns what it has then.
func (n *Node) raiseVersion(ctx context.Context, v version.Version) (version.Version, error) {
	v, err := n.commonVersion(v)
	if err != nil {
		return 0, err
	}
	payload := binary.AppendUvarint([]byte{versionFormat}, uint64(v))
	errs := n.askPeers(ctx, callAcceptVersion, payload)
	if err := n.store.RaiseVersion(v); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return 0, fmt.Errorf("cluster version %d needs every member: %w", v, errors.Join(errs...))
	}
	if v, err = n.dir.RaiseVersion(ctx, v); err != nil {
		return 0, err
	}
	if err := n.adoptVersion(v); err != nil {
		return 0, err
	}
	for _, err := range n.askPeers(ctx, callLearnVersion, nil) {
		n.log.Debug("a node will learn of the cluster's version later", "version", v, "err", err)
	}
	return v, nil
}

// commonVersion returns v if every member's program can run it, for 0 the highest
// that they all can, before anybody is bound to anything.
func (n *Node) commonVersion(v version.Version) (version.Version, error) {
	best := n.versions.Max
	for _, m := range n.members {
		can, ok := n.net.Versions(m.ID)
		if !ok {
			return 0, fmt.Errorf("%s has not said yet which cluster versions it can run", m.Name)
		}
		if v != 0 {
			if err := can.Check(v); err != nil {
				return 0, fmt.Errorf("cluster version %d: %s runs %s", v, m.Name, can)
			}
		}
		best = min(best, can.Max)
	}
	if v == 0 {
		v = best
	}
	return v, nil
}

// acceptVersion answers callAcceptVersion.
func (n *Node) acceptVersion(payload []byte) error {
	if len(payload) < 2 || payload[0] != versionFormat {
		return errors.New("malformed request for a cluster version")
	}
	v, w := binary.Uvarint(payload[1:])
	if w != len(payload)-1 || v > 1<<31 {
		return errors.New("malformed request for a cluster version")
	}
	return n.store.RaiseVersion(version.Version(v))
}

// versionIsTold answers callLearnVersion.
func (n *Node) versionIsTold() {
	select {
	case n.versionTold <- struct{}{}:
	default: // it will look anyway
	}
}
