package awslocal_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// BenchmarkKMS measures one serial client that uses a role session, over HTTP
// with signatures and policies checked and every call logged.
func BenchmarkKMS(b *testing.B) {
	w := start(b)
	keyARN := w.key(w.customer(), "")
	roleARN := w.role(w.customer(), "keywright", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, usePolicy(keyARN)))
	blob, err := session.encrypt(keyARN)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
	run("DescribeKey", func() error {
		_, err := session.kms.DescribeKey(b.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
		return err
	})
	run("Encrypt", func() error {
		_, err := session.encrypt(keyARN)
		return err
	})
	run("Decrypt", func() error {
		_, err := session.decrypt(keyARN, blob, testContext)
		return err
	})
	platform := w.platform()
	run("AssumeRole", func() error {
		_, err := platform.sts.AssumeRole(b.Context(), assumeInput(roleARN, externalID, ""))
		return err
	})
}
