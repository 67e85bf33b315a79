// Command poll asks for keys every second, and runs a command for each that has changed.
package main

import (
	"context"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if len(os.Args) < 5 {
		log.Fatal("usage: poll URL BUCKET KEY,... COMMAND...")
	}
	url, bucket, keys, command := os.Args[1], os.Args[2], strings.Split(os.Args[3], ","), os.Args[4:]
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
	seen := map[string]uint64{}
	for ; ; time.Sleep(time.Second) {
		for _, key := range keys {
			entry, err := kv.Get(ctx, key)
			if err != nil {
				log.Print(err)
				continue
			}
			if entry.Revision() == seen[key] {
				continue
			}
			seen[key] = entry.Revision()
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.Env = append(os.Environ(), "VALUE="+string(entry.Value()))
			if err := cmd.Run(); err != nil {
				log.Print(err)
			}
		}
	}
}
