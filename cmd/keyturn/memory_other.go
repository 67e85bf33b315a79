//go:build !linux

package main

import "runtime/debug"

// giveBack gives memory back that only the start of the process has needed.
func giveBack() { debug.FreeOSMemory() }
