// Command natswatch runs a command for each change of a key, as one writes it with nats.go in
// twenty lines.
package main

import (
	"context"
	"log"
	"os"
	"os/exec"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if len(os.Args) < 5 {
		log.Fatal("usage: natswatch URL BUCKET KEY COMMAND...")
	}
	url, bucket, key, command := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	ctx := context.Background()
	conn, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		log.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		log.Fatal(err)
	}
	watcher, err := kv.Watch(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	for entry := range watcher.Updates() {
		if entry == nil { // all that was there has been told
			continue
		}
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "VALUE="+string(entry.Value()))
		if err := cmd.Run(); err != nil {
			log.Print(err)
		}
	}
	log.Fatal("the watch has ended")
}
