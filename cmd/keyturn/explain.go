package main

import (
	"errors"
	"fmt"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// explain says of an error about a bucket what to do next.
func (a *app) explain(err error, bucket string) error {
	switch {
	case errors.Is(err, kv.ErrKeyNotFound):
		return kv.ErrKeyNotFound
	case errors.Is(err, kv.ErrBucketNotFound):
		return fmt.Errorf("bucket %s not found: create it with %s", bucket, a.again("kv", "add", bucket))
	case errors.Is(err, kv.ErrBucketExists):
		return fmt.Errorf("%w: look at them with %s, and change them with kv edit", err, a.again("kv", "info", bucket))
	case errors.Is(err, kv.ErrBucketFull):
		return fmt.Errorf("%w: it takes no deletes either; free space with %s or with kv purge, or give it more with kv edit --max-bucket-size", err, a.again("kv", "compact", bucket))
	case errors.Is(err, kv.ErrValueTooLarge):
		return fmt.Errorf("%w: %s shows what the bucket takes", err, a.again("kv", "info", bucket))
	case errors.Is(err, kv.ErrKeyExists):
		return fmt.Errorf("%w: change it with kv update or kv put", err)
	case errors.Is(err, kv.ErrWrongRevision):
		return fmt.Errorf("%w: somebody else has changed it, look at it with kv history", err)
	case errors.Is(err, kv.ErrPermission):
		return fmt.Errorf("%w: ask for the permission, or come as somebody else with --creds or --nkey", err)
	case errors.Is(err, kv.ErrUnsupported):
		return fmt.Errorf("%w: %s --json shows what the bucket takes, and kv edit with --txn or --key-ttl changes it", err, a.again("kv", "info", bucket))
	case errors.Is(err, kv.ErrReplicas) && a.server == "":
		return fmt.Errorf("%w, the store on this host: type --replicas 1 instead, or name a cluster with --server", err)
	case errors.Is(err, kv.ErrReplicas):
		return fmt.Errorf("%w: type --replicas 1 instead, or add servers", err)
	case errors.Is(err, kv.ErrUnavailable) && a.server == "":
		return fmt.Errorf("%w: look at it with --log-level debug", err)
	case errors.Is(err, kv.ErrUnavailable):
		return fmt.Errorf("%w: check that %s has JetStream and is well", err, natskv.Redacted(a.server))
	default:
		return err
	}
}
