package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestGiveBack(t *testing.T) {
	before := residentCode(t)
	giveBack()
	if after := residentCode(t); after > before*3/4 {
		t.Errorf("%d KiB of code are resident, %d before: want a quarter of it gone at least", after, before)
	}
}

// residentCode returns how many KiB of code the process has in memory.
func residentCode(t *testing.T) int {
	t.Helper()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	total, code := 0, false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		if fields := strings.Fields(line); len(fields) > 4 && len(fields[1]) == 4 {
			code = fields[1] == "r-xp"
		}
		kib := 0
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err == nil && code {
			total += kib
		}
	}
	if total == 0 {
		t.Fatal("no code is resident")
	}

	return total
}
