package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// chip is a state as people see it: a word and an icon, and a tone that never stands
// alone. Tones: ok, info, neutral, none (edge only), warn (dashed: no answer), suspect
// (dashed: refused, not confirmed), danger (a consequence), solid (refused, confirmed).
type chip struct{ Tone, Icon, Word string }

// verdict is what custody says about a project's key, in words.
type verdict struct {
	chip
	// Title is one sentence, Text what follows from it, Remedy what to do.
	Title, Text, Remedy string
	Reason, Detail      string
	// Key is the short name of the key, To the page about it.
	Key, Region, To string
	// Since is when the verdict began, Confirmed the newest right answer, Next the next check.
	Since, Confirmed, Next time.Time
	Sources                string
}

// Bad tells whether a window's title names it first.
func (v verdict) Bad() bool { return v.Tone == "solid" || v.Tone == "danger" || v.Tone == "suspect" }

// reasonWords names a reason in a chip; stopped is the sentence of a confirmed refusal.
func reasonWords(r kms.Reason) (short, stopped string) {
	switch r {
	case kms.KeyDisabled:
		return "key disabled", "the key of this project is disabled in AWS"
	case kms.KeyPendingDeletion:
		return "key to be deleted", "the key of this project is to be deleted"
	case kms.RoleNotAssumable, kms.RoleARNInvalid:
		return "role refused", "the role can no longer be assumed"
	case kms.KeyAccessDenied:
		return "access denied", "the role may no longer use the key"
	case kms.KeyNotFound:
		return "key not found", "AWS knows no such key"
	case kms.AccessKeyInvalid, kms.AccessKeySecretWrong:
		return "access key refused", "AWS refuses the access key"
	case "":
		return "refused", "AWS refuses the key"
	}
	words := strings.ToLower(strings.ReplaceAll(string(r), "_", " "))
	return words, "AWS refuses the key (" + words + ")"
}

// present brings a project's key management into words.
func present(v cmk.View, now time.Time) verdict {
	out := verdict{To: "/projects/" + string(v.Project) + "/advanced", Key: shortKey(v.KeyARN, v.KeyID), Region: region(v.Region)}
	if !v.Enabled {
		out.chip = chip{"none", "dashed", "Not configured"}
		out.Title, out.Text = "This project has no key yet", "Clusters are encrypted with a key of their own, and not with yours."
		out.Remedy = "Set it up with PATCH /api/atlas/v2/groups/" + string(v.Project) + "/encryptionAtRest."
		return out
	}
	out.Reason, out.Remedy, out.Detail, out.Since = v.Verdict.Reason, v.Verdict.Remedy, v.Verdict.Detail, v.Verdict.Since
	nad, hosts := 0, 0
	for _, x := range v.Validators {
		if x.Host != "" {
			hosts++
		}
		if t := x.State.LastSuccess; t.After(out.Confirmed) {
			out.Confirmed = t
		}
		// A state is not written down with each run: a time that has passed says nothing.
		if t := x.State.NextWall; t.After(now) && (out.Next.IsZero() || t.Before(out.Next)) {
			out.Next = t
		}
		if x.State.Verdict == custody.NAD {
			nad++
		}
	}
	out.Sources = plural(hosts, "host", "hosts") + " and the control plane"
	short, stopped := reasonWords(kms.Reason(v.Verdict.Reason))
	switch custody.Verdict(v.Verdict.Kind) {
	case custody.Valid:
		out.chip, out.Title = chip{"ok", "check", "Valid"}, "Keywright may use this key"
		out.Text, out.Remedy = "Confirmed "+moment(out.Confirmed, now)+".", ""
	case custody.Suspect:
		out.chip, out.Title = chip{"suspect", "clock", "Suspect"}, "AWS refuses the key: "+short
		out.Text = "This is not confirmed yet. If the next checks agree, the clusters that use the key stop."
	case custody.Invalid:
		out.chip, out.Title = chip{"solid", "octagon", "Invalid · " + short}, "Stopped: "+stopped
		out.Text = "All clusters that use the key are stopped. Their data is kept and cannot be read."
	case custody.Grace:
		out.chip, out.Title = chip{"danger", "clock", "Grace · until " + v.Deadline().UTC().Format("15:04")}, "AWS refuses the key: "+short
		out.Text = "The clusters stop at " + stamp(v.Deadline()) + ". A node that restarts before stays down."
	case custody.Alert:
		out.chip, out.Title = chip{"danger", "bell", "Alert only"}, "AWS refuses the key: "+short
		out.Text = "The policy of this project lets nodes run. A node that restarts stays down."
	case custody.NAD:
		out.chip = chip{"warn", "cloud-off", "Not allowed on " + plural(max(nad, 1), "host", "hosts")}
		out.Title, out.Text = "AWS denies some hosts only", "The key opens from elsewhere. What runs goes on; nothing starts on the hosts that are denied."
	case custody.Unreachable:
		out.chip, out.Title = chip{"warn", "cloud-off", "Unreachable"}, "AWS KMS does not answer. Nothing is stopped."
		switch kms.Reason(v.Verdict.Reason) {
		case kms.Throttled:
			out.Title = "AWS KMS asks us to slow down. Nothing is stopped."
		case kms.PlatformPermissions, kms.PlatformCredentials:
			out.Title = "Keywright's own AWS permissions are missing. Nothing is stopped."
		}
		out.Text = "Keywright retries by itself. A node that restarts now stays down until AWS KMS answers."
	default:
		out.chip, out.Title = chip{"warn", "unknown", "Unknown"}, "The key was not checked yet"
		out.Text = "Nothing starts before the first check has an answer."
	}
	return out
}

// shortKey is how a key is called where it has no label.
func shortKey(arn, id string) string {
	if _, after, ok := strings.Cut(arn, ":key/"); ok {
		id = after
	}
	if len(id) > 20 {
		return id[:8] + "-…-" + id[len(id)-12:]
	}
	return id
}

// region turns US_EAST_1 into us-east-1.
func region(r string) string { return strings.ToLower(strings.ReplaceAll(r, "_", "-")) }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// stamp is a time in full.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "not yet"
	}
	return t.UTC().Format("2 Jan 2006, 15:04:05 UTC")
}

// moment is a time in full, with how long ago that was.
func moment(t, now time.Time) string {
	if t.IsZero() {
		return "not yet"
	}
	return stamp(t) + ", " + span(now.Sub(t)) + " ago"
}

// span is a duration in the two largest units that matter.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// until is the time that is left; zero: it is due.
func until(t, now time.Time) string {
	if t.IsZero() {
		return "due"
	}
	return span(t.Sub(now))
}

// clockTime is the time of a day, where the day is plain.
func clockTime(t time.Time) string {
	if t.IsZero() {
		return "due"
	}
	return t.UTC().Format("15:04 UTC")
}
