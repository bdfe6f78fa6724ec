package doctor

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// The bounds of the clock's error: AWS refuses signatures that are more than 15 minutes
// off, in some services 5.
const (
	skewWarn = 30 * time.Second
	skewFail = 4 * time.Minute
)

func credentials(ctx context.Context, cfg Config) []Finding {
	const check = "AWS credentials"
	source, err := cfg.AWS.CredentialSource(ctx)
	if err != nil {
		return fail(check, "none could be loaded: "+err.Error(),
			"Give this machine an instance role, or set AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE or AWS_ACCESS_KEY_ID in the process's environment; outside of AWS set AWS_EC2_METADATA_DISABLED=true.")
	}
	if strings.HasPrefix(source, "EnvConfig") || strings.HasPrefix(source, "SharedConfig") {
		return warn(check, "long-lived ones, from "+source, "An instance role or web identity is safer: nothing lies on the disk and nothing has to be rotated.")
	}
	return ok(check, "from "+source)
}

func identity(ctx context.Context, cfg Config) []Finding {
	const check = "AWS identity"
	account, arn, err := cfg.AWS.CallerIdentity(ctx)
	if err != nil {
		f := kms.AsFailure(err)
		return fail(check, f.Detail(), f.Remedy)
	}
	if strings.HasSuffix(arn, ":root") {
		return warn(check, arn+" of account "+account, "Never run with the root user's keys: make a role or user that may do nothing but sts:AssumeRole.")
	}
	return ok(check, arn+" of account "+account)
}

// endpoints looks at the way to STS and KMS, and at the clock by their Date: no signed
// call is needed for that.
func endpoints(ctx context.Context, cfg Config) []Finding {
	ep := cfg.AWS.Endpoints(kms.Target{})
	out := append(reach(ctx, cfg, "STS", ep.STS), reach(ctx, cfg, "KMS", ep.KMS)...)
	return out
}

func reach(ctx context.Context, cfg Config, name, endpoint string) []Finding {
	check := name + " endpoint"
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return fail(check, fmt.Sprintf("%q is no address", endpoint), "Correct the Region, or AWS_ENDPOINT_URL.")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return fail(check, err.Error(), "Correct the Region, or AWS_ENDPOINT_URL.")
	}
	began := cfg.Now()
	resp, err := cfg.HTTP.Do(req)
	if err != nil {
		f := kms.AsFailure(err)
		return fail(check, fmt.Sprintf("%s does not answer (%s)", endpoint, f.Reason), f.Remedy)
	}
	took := cfg.Now().Sub(began)
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
	out := ok(check, fmt.Sprintf("%s answers in %s", endpoint, took.Round(time.Millisecond)))
	if !ofAWS(u.Hostname()) {
		out = warn(check, endpoint+" answers, and is none of AWS's own names",
			"Right for a VPC endpoint or the local AWS. Otherwise take AWS_ENDPOINT_URL out of the environment and the shared configuration.")
	}
	return append(out, skew(name+" clock", resp.Header.Get("Date"), began, took)...)
}

// ofAWS tells whether a host name is one of AWS's.
func ofAWS(host string) bool {
	for _, suffix := range []string{".amazonaws.com", ".amazonaws.com.cn", ".api.aws"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

func skew(check, date string, began time.Time, took time.Duration) []Finding {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return warn(check, "the answer has no date", "What answers is not AWS: look for a proxy.")
	}
	off := began.Add(took / 2).Sub(theirs).Round(time.Second)
	text := fmt.Sprintf("this machine's clock is %s off", off.Abs())
	const remedy = "Set the clock and keep it (chrony, systemd-timesyncd): AWS refuses signatures of a wrong time, and custody alarms when the clock goes back."
	switch {
	case off.Abs() > skewFail:
		return fail(check, text, remedy)
	case off.Abs() > skewWarn:
		return warn(check, text, remedy)
	}
	return ok(check, text)
}

func addresses(ctx context.Context, cfg Config) []Finding {
	const check = "addresses"
	var texts []string
	private := false
	for _, a := range cfg.AWS.SourceAddresses(ctx) {
		texts = append(texts, a.String())
		private = private || a.IsPrivate()
	}
	switch {
	case len(texts) == 0:
		return warn(check, "it is not known from where this machine calls AWS", "Name the addresses with --egress-address, so that customers can restrict their keys to them.")
	case private:
		return warn(check, "AWS is called from "+strings.Join(texts, ", ")+", which AWS does not see",
			"Behind an address translation name what is seen from outside with --egress-address; through a VPC endpoint there is nothing to do.")
	}
	return ok(check, "AWS is called from "+strings.Join(texts, ", "))
}
