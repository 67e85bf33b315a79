// Package watchertest holds every kind of watcher to the contract of package
// watchers, by [Run], and has a [Machine] that a kind's own tests need.
package watchertest
