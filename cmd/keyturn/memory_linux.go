package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack gives memory back that only the start of the process has needed: the heap,
// and most of the program's own code, which a package each initialises at the start and
// which the system then counts as ours for good. What is needed again it maps again.
//
// Constants stay: in a program that is linked to run at any address they are not what
// stands in the file.
func giveBack() {
	debug.FreeOSMemory()

	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return // there is nothing to lose
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			return
		}
		if rights == "r-xp" && strings.Contains(lines.Text(), " /") { // code from a file
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
