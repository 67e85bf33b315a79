package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvTxnCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "txn BUCKET",
		Short: "Change several keys, all of them or none",
		Long: `Change several keys, all of them or none. Each change is an object of JSON on stdin:

  {"op": "put", "key": "app.host", "value": "web2"}

op is put, create (the key must hold nothing), update (its newest revision must be that
of the member revision), del or purge; put if it is left out. put, del and purge may have
a revision too. A value is text, or with "encoding": "base64" bytes; it may have a "ttl".
No key may be there twice. If one condition does not hold, nothing is changed.`,
		Example:           `  printf '{"key":"a","value":"1"} {"op":"del","key":"b","revision":7}' | keyturn kv txn CFG`,
		Args:              between(1, 1),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			if isTerminal(a.stdin) {
				return a.wrong("there are no changes: give them on stdin")
			}
			ops, err := readOps(a.stdin)
			if err != nil {
				return fmt.Errorf("read the changes from stdin: %w", err)
			}
			return a.withBucket(cmd.Context(), args[0], func(s *store, _ kv.Bucket) error {
				revisions, err := s.Txn(cmd.Context(), args[0], ops)
				switch {
				case errors.Is(err, kv.ErrBucketNotFound):
					return a.createIt(args[0])
				case errors.Is(err, kv.ErrUnsupported):
					return a.unsupportedTxn(cmd.Context(), s, args[0], ops, err)
				case err != nil:
					return err
				}
				return a.printTxn(ops, revisions)
			})
		},
	}
}

// unsupportedTxn says what to switch on in a bucket that has refused a transaction, if
// that is why.
func (a *app) unsupportedTxn(ctx context.Context, s *store, bucket string, ops []natskv.Op, err error) error {
	info, failed := s.BucketInfo(ctx, bucket)
	expires := slices.ContainsFunc(ops, func(op natskv.Op) bool { return op.TTL > 0 })
	switch {
	case failed != nil:
		return err
	case info.Config.NoTxn:
		return a.switchOn(err, bucket, "--txn")
	case expires && !info.Config.KeyTTL:
		return a.switchOn(err, bucket, "--key-ttl")
	}
	return err
}

// change is one change of a transaction as it is read.
type change struct {
	Op       string       `json:"op"`
	Key      string       `json:"key"`
	Value    string       `json:"value"`
	Encoding string       `json:"encoding"`
	TTL      string       `json:"ttl"`
	Revision *kv.Revision `json:"revision"`
}

// readOps reads the changes of a transaction.
func readOps(r io.Reader) ([]natskv.Op, error) {
	decoder := json.NewDecoder(io.LimitReader(r, mostValue))
	decoder.DisallowUnknownFields()
	var ops []natskv.Op
	for seen := map[string]bool{}; ; {
		var c change
		err := decoder.Decode(&c)
		if errors.Is(err, io.EOF) && len(ops) > 0 {
			return ops, nil
		}
		var op natskv.Op
		if err != nil && !errors.Is(err, io.EOF) {
			err = badJSON(err)
		}
		if err == nil {
			op, err = c.parse()
		}
		if err == nil {
			err = kv.CheckKey(op.Key)
		}
		if err == nil && seen[op.Key] {
			err = fmt.Errorf("key %s is there twice", op.Key)
		}
		seen[op.Key] = true
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("there are none")
		case err != nil:
			return nil, fmt.Errorf("change %d: %w", len(ops)+1, err)
		}
		ops = append(ops, op)
	}
}

// parse returns what a change asks for.
func (c change) parse() (op natskv.Op, err error) {
	op = natskv.Op{Key: c.Key, Value: []byte(c.Value), Last: c.Revision}
	switch {
	case c.Op == "put", c.Op == "":
		op.Operation = kv.OpPut
	case c.Op == "create" && c.Revision == nil:
		op.Operation, op.Last = kv.OpPut, new(kv.Revision)
	case c.Op == "create":
		return op, errors.New("create has no revision")
	case c.Op == "update" && c.Revision == nil:
		return op, errors.New("update needs a revision")
	case c.Op == "update":
		op.Operation = kv.OpPut
	case c.Op == "del":
		op.Operation = kv.OpDelete
	case c.Op == "purge":
		op.Operation = kv.OpPurge
	default:
		return op, fmt.Errorf("op is %q, want put, create, update, del or purge", c.Op)
	}
	if op.Operation != kv.OpPut && (c.Value != "" || c.TTL != "") {
		return op, fmt.Errorf("%s has no value and no ttl", c.Op)
	}
	switch c.Encoding {
	case "":
	case "base64":
		if op.Value, err = base64.StdEncoding.DecodeString(c.Value); err != nil {
			return op, errors.New("the value is not base64")
		}
	default:
		return op, fmt.Errorf("encoding is %q, want base64 or none", c.Encoding)
	}
	if c.TTL != "" {
		var ttl duration
		if err := ttl.Set(c.TTL); err != nil {
			return op, fmt.Errorf("ttl: %w", err)
		}
		if op.TTL = time.Duration(ttl); op.TTL < time.Second {
			return op, errors.New("ttl: the least is 1s")
		}
	}
	return op, nil
}

// printTxn prints what a transaction has changed.
func (a *app) printTxn(ops []natskv.Op, revisions []kv.Revision) error {
	switch {
	case a.json:
	case len(ops) == 1:
		return a.print("Changed 1 key at revision %d\n", revisions[0])
	default:
		return a.print("Changed %d keys at revisions %d to %d\n", len(ops), revisions[0], revisions[len(revisions)-1])
	}
	type changed struct {
		Key       string       `json:"key"`
		Operation kv.Operation `json:"operation"`
		Revision  kv.Revision  `json:"revision"`
	}
	var list []changed
	for i, op := range ops {
		list = append(list, changed{op.Key, op.Operation, revisions[i]})
	}
	return a.print("%s", jsonLine(list))
}
