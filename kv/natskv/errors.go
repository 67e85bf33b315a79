package natskv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyturn-io/keyturn/kv"
)

// The server's error codes that mean something to callers and that package
// jetstream gives no name.
const (
	codeAccountLimits  = 10002
	codeNoPeers        = 10005
	codeMemoryLimits   = 10028
	codeStorageLimits  = 10047
	codeStreamCreate   = 10049
	codeInvalidConfig  = 10052
	codeNoCluster      = 10074
	codeStoreFailed    = 10077
	codeMaxStreamBytes = 10122
	codeRestore        = 10062
	codeRestoreExists  = 10130
	codeNoKeyTTL       = 10166
	codeNoTxn          = 10174
	codeTxnHeader      = 10177
	codeTxnTooLarge    = 10199
)

// translate turns an error of NATS into one of package kv. What it does not know
// is ErrUnavailable when it comes from the connection or is the server's own
// trouble, and plain text else: no error of package jetstream leaves this one.
func translate(err error) error {
	switch {
	case known(err), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: the server takes no message as large", kv.ErrValueTooLarge)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: nobody answers for JetStream", kv.ErrUnavailable)
	case errors.Is(err, jetstream.ErrBucketExists):
		return kv.ErrBucketExists
	}
	var js jetstream.JetStreamError
	switch {
	case !errors.As(err, &js):
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	case js.APIError() == nil:
		return fmt.Errorf("%w: %s", kv.ErrUnavailable, js)
	}
	api := js.APIError()
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamNotFound:
		return kv.ErrBucketNotFound
	case jetstream.JSErrCodeStreamNameInUse:
		return kv.ErrBucketExists
	case jetstream.JSErrCodeMessageNotFound:
		return kv.ErrKeyNotFound
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return kv.ErrWrongRevision
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return kv.ErrValueTooLarge
	case codeAccountLimits, codeMemoryLimits, codeStorageLimits, codeMaxStreamBytes:
		return fmt.Errorf("%w: %s", kv.ErrBucketFull, api.Description)
	case codeNoKeyTTL:
		return fmt.Errorf("%w: the bucket is not set to take keys with a TTL of their own", kv.ErrUnsupported)
	case codeNoTxn:
		return errNoTxn
	case codeTxnHeader, codeTxnTooLarge:
		return fmt.Errorf("%w: %s", kv.ErrUnsupported, api.Description)
	case codeStoreFailed:
		// A full bucket has no code of its own.
		if strings.HasPrefix(api.Description, "maximum ") {
			return fmt.Errorf("%w: %s", kv.ErrBucketFull, api.Description)
		}
	}
	if api.ErrorCode == codeInvalidConfig {
		return fmt.Errorf("%w: %s", kv.ErrInvalidConfig, api.Description)
	}
	if api.Code >= 500 {
		return fmt.Errorf("%w: %s", kv.ErrUnavailable, api.Description)
	}
	return errors.New(api.Description)
}

// errNotJetStream is an answer that cannot be read.
var errNotJetStream = fmt.Errorf("%w: the answer is not JetStream's", kv.ErrUnavailable)

// errorCode is the code of an error that the server has answered, or 0.
func errorCode(err error) jetstream.ErrorCode {
	var js jetstream.JetStreamError
	if !errors.As(err, &js) || js.APIError() == nil {
		return 0
	}
	return js.APIError().ErrorCode
}

// known says whether err is one of package kv already.
func known(err error) bool {
	for _, k := range []error{
		kv.ErrBucketNotFound, kv.ErrBucketExists, kv.ErrInvalidBucket,
		kv.ErrKeyNotFound, kv.ErrKeyExists, kv.ErrInvalidKey, kv.ErrWrongRevision,
		kv.ErrValueTooLarge, kv.ErrBucketFull, kv.ErrPermission, kv.ErrUnavailable,
		kv.ErrReadOnly, kv.ErrReplicas, kv.ErrUnsupported, kv.ErrBackup, kv.ErrInvalidConfig,
	} {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}
