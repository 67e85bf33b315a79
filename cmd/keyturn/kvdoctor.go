package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn-io/keyturn/kv"
	"github.com/keyturn-io/keyturn/kv/natskv"
)

func (a *app) kvDoctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [BUCKET...]",
		Short: "Find what is or may go wrong with buckets",
		Long: `Find what is or may go wrong with buckets, all of them if none is named: copies that are
missing, replicas that have lost their origin, limits that are near, settings that lose
or surprise. The worst comes first: a problem is wrong now, a warning may become one, a
note is to be known. It fails if there is a problem.`,
		Example: `  keyturn kv doctor
  keyturn kv doctor CFG --json`,
		ValidArgsFunction: a.completeBucketName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(s *store) error {
				names := args
				if len(args) == 0 {
					var err error
					if names, err = s.Buckets(cmd.Context()); err != nil {
						return a.explain(err, "")
					}
				}
				findings, err := a.examine(cmd.Context(), s, names, len(args) > 0)
				if err != nil {
					return err
				}
				return a.printFindings(findings)
			})
		},
	}
}

// jsonFinding is something that is or may go wrong with a bucket.
type jsonFinding struct {
	Bucket string       `json:"bucket"`
	Level  natskv.Level `json:"level"`
	What   string       `json:"what"`
	Do     string       `json:"do,omitempty"`
}

// examine returns what there is to say of buckets. That one is not there is an error only
// if it was asked for.
func (a *app) examine(ctx context.Context, s *store, names []string, asked bool) ([]jsonFinding, error) {
	all := []jsonFinding{}
	for _, name := range names {
		findings, err := s.Doctor(ctx, name)
		switch {
		case !asked && (errors.Is(err, kv.ErrBucketNotFound) || errors.Is(err, kv.ErrInvalidBucket)):
			continue // it went a moment ago, or is no bucket
		case err != nil:
			return nil, a.explain(err, name)
		}
		for _, f := range findings {
			all = append(all, jsonFinding{name, f.Level, f.What, f.Do})
		}
	}
	return all, nil
}

// printFindings prints them, and fails if one is a problem.
func (a *app) printFindings(all []jsonFinding) error {
	levels := []natskv.Level{natskv.Problem, natskv.Warning, natskv.Note}
	slices.SortStableFunc(all, func(a, b jsonFinding) int {
		return cmp.Compare(slices.Index(levels, a.Level), slices.Index(levels, b.Level))
	})
	var text strings.Builder
	for _, f := range together(all) {
		text.WriteString(f.Bucket + ": " + string(f.Level) + ": " + f.What + "\n")
		if f.Do != "" {
			text.WriteString("    " + f.Do + "\n")
		}
	}
	if a.json {
		text.Reset()
		text.Write(jsonLine(all))
	}
	if err := a.print("%s", text.String()); err != nil {
		return err
	}
	if len(all) > 0 && all[0].Level == natskv.Problem {
		return errTold
	}
	return nil
}

// together makes one finding of those that say the same of several buckets.
func together(all []jsonFinding) []jsonFinding {
	buckets := map[jsonFinding][]string{}
	var order []jsonFinding
	for _, f := range all {
		name := f.Bucket
		f.Bucket = ""
		if buckets[f] == nil {
			order = append(order, f)
		}
		buckets[f] = append(buckets[f], name)
	}
	for i, f := range order {
		order[i].Bucket = strings.Join(buckets[f], ", ")
	}
	return order
}
