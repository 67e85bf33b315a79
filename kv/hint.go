package kv

import "context"

// Hinter is a Bucket that can listen for messages which hint that it has changed, as
// a stream publishes them that is configured to republish what it takes. It is for
// fleets that are too large for a watch each.
type Hinter interface {
	Bucket

	// Hints returns a channel that has something to receive soon after a message was
	// published to the subject, which may hold wildcards, and whenever messages may have
	// been missed. At most one waits. Anybody may publish, so a hint carries no data:
	// look at the bucket. It ends with ctx, when the channel is not closed.
	Hints(ctx context.Context, subject string) (<-chan struct{}, error)
}
