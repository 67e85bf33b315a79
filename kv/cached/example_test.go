package cached_test

import (
	"context"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/keyturn-io/keyturn/kv/cached"
	"github.com/keyturn-io/keyturn/kv/memkv"
)

// A program reads its settings from memory, and what it writes it sees at once.
func Example() {
	store := memkv.New()
	if err := store.Create("CFG", memkv.Config{}); err != nil {
		log.Fatal(err)
	}
	bucket, err := store.Bucket("CFG")
	if err != nil {
		log.Fatal(err)
	}

	settings, err := cached.New(bucket, cached.Options{Filters: []string{"web.>"}})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := settings.Run(ctx); err != nil {
			log.Print(err)
		}
	})
	<-settings.Ready() // without waiting, the bucket is asked until then

	if _, err := settings.Put(ctx, "web.port", []byte("8080")); err != nil {
		log.Fatal(err)
	}
	entry, err := settings.Get(ctx, "web.port")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is %s at revision %d\n", entry.Key, entry.Value, entry.Revision)

	cancel()
	wg.Wait()
	// Output: web.port is 8080 at revision 1
}

// Where an old answer is worse than none, memory is bounded in time and fails.
func ExampleOptions() {
	store := memkv.New()
	bucket, err := store.Bucket("FLAGS")
	if err != nil {
		log.Fatal(err)
	}
	flags, err := cached.New(bucket, cached.Options{MaxStale: 5 * time.Second, OnStale: cached.Fail})
	if err != nil {
		log.Fatal(err)
	}
	_, err = flags.Get(context.Background(), "new-checkout")
	fmt.Println(err)
	// Output: get new-checkout in bucket FLAGS: store unavailable: memory is not up to date: nothing keeps it so
}
