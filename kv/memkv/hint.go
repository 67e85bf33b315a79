package memkv

import (
	"context"

	"github.com/keyturn-io/keyturn/kv"
)

var _ kv.Hinter = (*bucket)(nil)

// listener waits for hints.
type listener struct {
	subject string
	hints   chan struct{}
}

// Hint publishes a message to a subject, for those who listen with Hints.
func (s *Store) Hint(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		if kv.Match(l.subject, subject) {
			select {
			case l.hints <- struct{}{}:
			default: // one waits already
			}
		}
	}
}

// Hints listens for what Store.Hint publishes.
func (b *bucket) Hints(ctx context.Context, subject string) (<-chan struct{}, error) {
	l := &listener{subject, make(chan struct{}, 1)}
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners == nil {
		s.listeners = map[*listener]bool{}
	}
	s.listeners[l] = true
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
	})

	return l.hints, nil
}
