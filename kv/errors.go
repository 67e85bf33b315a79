package kv

import (
	"errors"
	"fmt"
)

// The conditions that callers branch on with errors.Is. Implementations wrap
// them with the operation, the bucket and the key.
var (
	ErrBucketNotFound = errors.New("bucket not found")
	ErrBucketExists   = errors.New("bucket exists")
	ErrInvalidBucket  = errors.New("invalid bucket name")
	ErrKeyNotFound    = errors.New("unknown key")
	ErrKeyExists      = errors.New("key exists")
	ErrInvalidKey     = errors.New("invalid key")
	ErrWrongRevision  = errors.New("wrong last revision")
	ErrValueTooLarge  = errors.New("value too large")
	ErrBucketFull     = errors.New("bucket full")
	ErrPermission     = errors.New("permission denied")
	ErrUnavailable    = errors.New("store unavailable")
	ErrInvalidConfig  = errors.New("invalid setting")
	ErrReadOnly       = errors.New("read only")
	ErrReplicas       = errors.New("too few servers")
	ErrUnsupported    = errors.New("not supported")
	ErrBackup         = errors.New("damaged backup")

	// ErrKeyDeleted is an ErrKeyNotFound of a key that was deleted or purged.
	ErrKeyDeleted = fmt.Errorf("%w: it was deleted", ErrKeyNotFound)
)
