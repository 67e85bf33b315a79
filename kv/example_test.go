package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

// openBucket returns a bucket in memory. A real one is made by natskv.
func openBucket() kv.Bucket {
	store := memkv.New()
	if err := store.Create("CFG", memkv.Config{History: 5}); err != nil {
		log.Fatal(err)
	}
	b, err := store.Bucket("CFG")
	if err != nil {
		log.Fatal(err)
	}
	return b
}

// Get tells a key that never was from one that was deleted.
func ExampleBucket_get() {
	ctx := context.Background()
	b := openBucket()
	_, err := b.Get(ctx, "username")
	fmt.Println(errors.Is(err, kv.ErrKeyNotFound), err)

	if _, err := b.Put(ctx, "username", []byte("bob")); err != nil {
		log.Fatal(err)
	}
	e, err := b.Get(ctx, "username")
	fmt.Println(string(e.Value), e.Revision, err)

	if err := b.Delete(ctx, "username", 0); err != nil {
		log.Fatal(err)
	}
	e, err = b.Get(ctx, "username")
	fmt.Println(errors.Is(err, kv.ErrKeyDeleted), e.Operation, e.Revision)
	// Output:
	// true get username in bucket CFG: unknown key
	// bob 1 <nil>
	// true DEL 2
}

// A key keeps its last revisions, as many as the bucket's history. Deleting adds a
// marker to them, and Purge leaves nothing but one.
func ExampleBucket_history() {
	ctx := context.Background()
	b := openBucket()
	for _, value := range []string{"alice", "bob"} {
		if _, err := b.Put(ctx, "username", []byte(value)); err != nil {
			log.Fatal(err)
		}
	}
	if err := b.Delete(ctx, "username", 0); err != nil {
		log.Fatal(err)
	}
	entries, err := b.History(ctx, "username")
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Printf("%d %s %q\n", e.Revision, e.Operation, e.Value)
	}

	before, err := b.GetRevision(ctx, "username", 1)
	fmt.Println(string(before.Value), err)
	// Output:
	// 1 PUT "alice"
	// 2 PUT "bob"
	// 3 DEL ""
	// alice <nil>
}

// A filter is a key in which * stands for one token, and > at the end for all that follow.
func ExampleBucket_keys() {
	ctx := context.Background()
	b := openBucket()
	for _, key := range []string{"app.web.version", "app.db.version", "app.db.port", "motd"} {
		if _, err := b.Put(ctx, key, []byte("1")); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(b.Keys(ctx, "app.*.version"))
	fmt.Println(b.Keys(ctx, "app.db.>", "motd"))
	// Output:
	// [app.db.version app.web.version] <nil>
	// [app.db.port app.db.version motd] <nil>
}

// A value that expires needs a bucket that is an Expirer: not every store can, and
// not every bucket of one that can is set to.
func ExampleExpirer() {
	b := openBucket()
	e, ok := b.(kv.Expirer)
	if !ok {
		fmt.Println("values of this store do not expire")
		return
	}
	_, err := e.PutTTL(context.Background(), "lease", []byte("host1"), time.Minute)
	switch {
	case errors.Is(err, kv.ErrUnsupported):
		fmt.Println("this bucket was made without")
	case err != nil:
		log.Fatal(err)
	}
	// Output:
	// values of this store do not expire
}

// Several writers change a key one after the other: who was not the first reads
// again and tries again.
func ExampleBucket_update() {
	ctx := context.Background()
	b := openBucket()
	first, err := b.Create(ctx, "count", []byte("1"))
	if err != nil {
		log.Fatal(err)
	}
	second, err := b.Update(ctx, "count", []byte("2"), first)
	fmt.Println(second, err)
	_, err = b.Update(ctx, "count", []byte("3"), first)
	fmt.Println(errors.Is(err, kv.ErrWrongRevision))
	// Output:
	// 2 <nil>
	// true
}

// A watch is a loop. It tells what is there, then Synced, then what changes, and
// ends when the loop is left.
func ExampleBucket_watch() {
	ctx := context.Background()
	b := openBucket()
	for _, key := range []string{"web.port", "web.host", "db.host"} {
		if _, err := b.Put(ctx, key, []byte("value of "+key)); err != nil {
			log.Fatal(err)
		}
	}
	for event, err := range b.Watch(ctx, kv.WatchOptions{Filters: []string{"web.*"}}) {
		if err != nil {
			log.Fatal(err) // the watch cannot go on
		}
		switch event.Kind {
		case kv.Put:
			fmt.Printf("%s is %q\n", event.Entry.Key, event.Entry.Value)
		case kv.Delete, kv.Purge:
			fmt.Println(event.Entry.Key, "was deleted")
			return
		case kv.Missing:
			fmt.Println(event.Entry.Key, "vanished: better keep what was known of it")
		case kv.Synced:
			fmt.Println("that is all, for now")
			if err := b.Delete(ctx, "web.port", 0); err != nil {
				log.Fatal(err)
			}
		case kv.Lost:
			fmt.Println("the bucket is away:", event.Err) // the watch goes on trying
		case kv.Found, kv.Reset:
			fmt.Println("what differs from before follows")
		}
	}
	// Output:
	// web.port is "value of web.port"
	// web.host is "value of web.host"
	// that is all, for now
	// web.port was deleted
}
