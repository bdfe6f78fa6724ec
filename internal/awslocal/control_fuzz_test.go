package awslocal

import (
	"testing"
	"time"
)

func FuzzParseControl(f *testing.F) {
	f.Add([]byte(`{"version":1,"delay":{"millis":5,"alternate":true}}`))
	f.Add([]byte(`{"version":1,"moveSeconds":-3600}`))
	f.Add([]byte(`{"version":1,"fault":{"kind":"error","service":"kms","operation":"Decrypt","principal":"arn:*","count":3,"code":"X","status":500}}`))
	f.Add([]byte(`{"version":1,"fault":{"kind":"slow","delayMillis":1}} x`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := parseControl(raw)
		if err != nil || in.Fault == nil || in.Fault.check() != nil {
			return
		}
		x := in.Fault
		if d := time.Duration(x.DelayMillis) * time.Millisecond; d < 0 || d > maxFaultDelay || x.SkewSeconds > maxSkew || x.SkewSeconds < -maxSkew || x.Count < 0 {
			t.Fatalf("an unbounded fault was accepted: %+v", x)
		}
		if x.Kind == FaultError {
			if e := asAPIError(x.apiError(true), true); e.status < 400 || e.status > 599 || e.code == "" {
				t.Fatalf("fault %+v answers %+v", x, e)
			}
		}
	})
}
