package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

// explain says of an error about a bucket what to do next.
func (a *app) explain(err error, bucket string) error {
	switch {
	case errors.Is(err, kv.ErrInvalidBucket), errors.Is(err, kv.ErrInvalidKey), errors.Is(err, kv.ErrInvalidConfig):
		return a.wrong("%s", err)
	case errors.Is(err, kv.ErrKeyNotFound) && a.json:
		return fmt.Errorf("%w: %s lists those that are there", err, a.again("kv", "keys", bucket))
	case errors.Is(err, kv.ErrKeyNotFound):
		return kv.ErrKeyNotFound // scripts compare it
	case errors.Is(err, kv.ErrBucketNotFound):
		return fmt.Errorf("bucket %s not found: %s lists those that are there", bucket, a.again("kv", "ls"))
	case errors.Is(err, kv.ErrBucketExists):
		return fmt.Errorf("%w: look at it with %s, or change it with kv edit", err, a.again("kv", "info", bucket))
	case errors.Is(err, kv.ErrBucketFull):
		return fmt.Errorf("%w: it takes no deletes either; free space with %s or with kv purge, or give it more with kv edit --max-bucket-size", err, a.again("kv", "compact", bucket))
	case errors.Is(err, kv.ErrValueTooLarge) && !strings.HasSuffix(err.Error(), kv.ErrValueTooLarge.Error()):
		return fmt.Errorf("%w: it takes 1MB if its max_payload is not more", err) // not the bucket's limit
	case errors.Is(err, kv.ErrValueTooLarge):
		return fmt.Errorf("%w: %s shows what the bucket takes", err, a.again("kv", "info", bucket))
	case errors.Is(err, kv.ErrKeyExists):
		return fmt.Errorf("%w: change it with kv update or kv put", err)
	case errors.Is(err, kv.ErrWrongRevision):
		return fmt.Errorf("%w: somebody else has changed it, look at it with kv history", err)
	case errors.Is(err, kv.ErrPermission):
		return fmt.Errorf("%w: ask for the permission, or come as somebody else with --creds or --nkey", err)
	case errors.Is(err, kv.ErrReplicas) && a.server == "":
		return fmt.Errorf("%w, the store on this host: type --replicas 1 instead, or name a cluster with --server", err)
	case errors.Is(err, kv.ErrReplicas):
		return fmt.Errorf("%w: type --replicas 1 instead, or add servers", err)
	case errors.Is(err, kv.ErrUnavailable) && a.server == "":
		return fmt.Errorf("%w: see that its disk has room, and look at it with --log-level debug", err)
	case errors.Is(err, kv.ErrUnavailable):
		return fmt.Errorf("%w: check that %s has JetStream and is well, and in a cluster most of its servers", err, natskv.Redacted(a.server))
	default:
		return err
	}
}

// createIt is the error of what can be done in a bucket that is created first.
func (a *app) createIt(bucket string) error {
	return fmt.Errorf("bucket %s not found: create it with %s", bucket, a.again("kv", "add", bucket))
}

// switchOn says how a bucket comes to do what it is not set to do.
func (a *app) switchOn(err error, bucket, flag string) error {
	return fmt.Errorf("%w: have it do so with %s", err, a.again("kv", "edit", bucket, flag))
}

// plain returns the text of an error, in words of ours where Go's say little.
func plain(err error) string {
	text := err.Error()
	for _, jargon := range []struct {
		err   error
		means string
	}{
		{context.DeadlineExceeded, "no answer in time"},
		{io.EOF, "the other side hung up"},
	} {
		if errors.Is(err, jargon.err) {
			text = strings.ReplaceAll(text, jargon.err.Error(), jargon.means)
		}
	}
	return text
}

// badJSON says what is wrong with JSON on stdin, in words that do not name our types.
func badJSON(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		where := "it"
		if wrong.Field != "" {
			where = wrong.Field
		}
		return fmt.Errorf("%s cannot be of the kind %s", where, wrong.Value)
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not JSON: %w", wrong)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends in the middle")
	}
	if text, ok := strings.CutPrefix(err.Error(), "json: "); ok {
		return errors.New(text)
	}
	return err
}
