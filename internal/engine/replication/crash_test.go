package replication

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// load is what writers do in crash tests: inserts, a counter of each writer, and a
// retryable increment. ack is told of each acknowledged round.
type load struct {
	db    string
	start int
}

func (l load) round(ctx context.Context, t testing.TB, r *Replica, g, i int) error {
	lsid := binary.BigEndian.AppendUint64(nil, uint64(g))
	o := WriteOptions{DB: l.db, LSID: lsid, TxnNumber: int64(i), HasTxn: true}
	id := fmt.Sprintf("%d-%d", g, i)
	_, err := r.Write(ctx, o, func(w *Writer) error {
		if _, _, err := w.Do(0, func(tx *Tx) (bson.Raw, error) {
			return nil, tx.Insert("docs", doc(t, "_id", id, "a", i%7, "u", id, "pad", strings.Repeat("p", 200)))
		}); err != nil {
			return err
		}
		_, _, err := w.Do(1, func(tx *Tx) (bson.Raw, error) {
			k := idKey(t, g)
			d, err := tx.Lock("counters", k)
			if err != nil {
				return nil, err
			}
			res := doc(t, "round", i)
			if d == nil {
				return res, tx.Insert("counters", doc(t, "_id", g, "n", 1, "last", i, "a", i%3))
			}
			return res, tx.Replace("counters", k, doc(t, "_id", g, "n", d.Lookup("n").AsInt64()+1, "last", i, "a", i%3))
		})
		return err
	})
	return err
}

// check finds out whether everything up to the acknowledged rounds is there, exactly
// once, and whether the newest round's record still answers.
func (l load) check(t testing.TB, r *Replica, acked []int64) {
	t.Helper()
	for g, n := range acked {
		for i := l.start; i < int(n); i++ {
			if find(t, r, l.db, "docs", fmt.Sprintf("%d-%d", g, i)) == nil {
				t.Errorf("writer %d: acknowledged document %d of %d is gone", g, i, n)
			}
		}
		if n == int64(l.start) {
			continue
		}
		d := find(t, r, l.db, "counters", g)
		if d == nil {
			t.Errorf("writer %d: its counter is gone", g)
			continue
		}
		last := d.Lookup("last").AsInt64()
		if last < n-1 || last > n || d.Lookup("n").AsInt64() != last+1 {
			t.Errorf("writer %d: counter %v after %d acknowledged rounds", g, d, n)
		}
		txn, results, ok := r.store.Session(binary.BigEndian.AppendUint64(nil, uint64(g)))
		if _, done := results[1]; ok && txn == last+1 && !done {
			continue // power failed between the next round's statements
		}
		if !ok || txn != last || results[1].Lookup("round").AsInt64() != last {
			t.Errorf("writer %d: retry record %d %v, want that of round %d", g, txn, results, last)
		}
	}
}

func TestPowerLoss(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		rng := rand.New(rand.NewPCG(1, 2))
		rounds := 6
		if testing.Short() {
			rounds = 2
		}
		for round := range rounds {
			powerLoss(t, rng, encrypted, round)
		}
	})
}

func powerLoss(t *testing.T, rng *rand.Rand, encrypted bool, round int) {
	const writers = 4
	fs := vfs.NewCrashableMem()
	cfg := config(t, filesFor(t, noLock{fs}, "/n", encrypted), "/n")
	cfg.SnapshotEntries, cfg.MemTableSize, cfg.OplogBytes = 60, 64<<10, 64<<10
	r := open(t, cfg)
	ctx, cancel := context.WithCancel(within(t))
	l := load{db: "d"}
	var acked [writers]atomic.Int64
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := l.round(ctx, t, r, g, i); err != nil {
					return
				}
				acked[g].Store(int64(i + 1))
			}
		})
	}
	wg.Go(func() { // schema changes in between
		for i := 0; ctx.Err() == nil; i++ {
			_, _, _, _ = r.CreateIndexes(ctx, "d", "docs", []index.Spec{spec("a_1", false, "a"), spec("u_1", true, "u")})
			_, _, _, _ = r.CreateIndexes(ctx, "d", "counters", []index.Spec{spec("a_1", false, "a"), spec("last_1", true, "last", "_id")})
			if i%2 == 1 {
				_, _ = r.DropIndexes(ctx, "d", "docs", nil)
			}
			_ = insert(ctx, r, "other", "c", doc(t, "_id", i))
			_, _ = r.DropDatabase(ctx, "other")
		}
	})
	type crash struct {
		fs    *vfs.MemFS
		acked []int64
	}
	var crashes []crash
	for range 3 {
		target := acked[0].Load() + 5 + rng.Int64N(60)
		for acked[0].Load() < target && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // poll
		}
		var c crash
		for g := range acked {
			c.acked = append(c.acked, acked[g].Load())
		}
		c.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[rng.IntN(3)], RNG: rng})
		crashes = append(crashes, c)
	}
	cancel()
	wg.Wait()
	shut(t, r)
	for i, c := range crashes {
		cfg := cfg
		cfg.Files = filesFor(t, noLock{c.fs}, "/n", encrypted)
		r, err := Open(within(t), cfg)
		if err != nil {
			t.Fatalf("round %d, crash %d: %v", round, i, err)
		}
		// The clone may hold more than was acknowledged when it was asked for.
		for g := range c.acked {
			if d := find(t, r, "d", "counters", g); d != nil {
				if last := d.Lookup("last").AsInt64(); last+1 < c.acked[g] {
					t.Errorf("writer %d: %d acknowledged, %d found", g, c.acked[g], last+1)
				} else {
					c.acked[g] = last + 1
				}
			} else if c.acked[g] > 0 {
				t.Errorf("writer %d: counter lost", g)
			}
		}
		l.check(t, r, c.acked)
		verify(t, r)
		shut(t, r)
	}
}

const crashChild = "KEYWRIGHT_TEST_CRASH_CHILD"

// TestMain runs the child of TestKill.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChild); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// child writes until it is killed and prints what was acknowledged.
func child(dir string) {
	t := &testing.B{}
	encrypted := os.Getenv(crashChild+"_ENCRYPTED") == "1"
	starts := strings.Split(os.Getenv(crashChild+"_START"), ",")
	cfg := config(t, filesFor(t, vfs.Default, dir, encrypted), dir)
	cfg.SnapshotEntries, cfg.MemTableSize = 200, 256<<10
	cfg.OnFatal = func(msg string) { fmt.Println("fatal", msg); os.Exit(3) }
	r, err := Open(context.Background(), cfg)
	if err != nil {
		fmt.Println("fatal", err)
		os.Exit(3)
	}
	if r.Status().Set == "" {
		if err := r.Initiate(context.Background(), "rs0", "h"); err != nil {
			fmt.Println("fatal", err)
			os.Exit(3)
		}
		if _, _, _, err := r.CreateIndexes(context.Background(), "d", "docs", []index.Spec{spec("a_1", false, "a"), spec("u_1", true, "u")}); err != nil {
			fmt.Println("fatal", err)
			os.Exit(3)
		}
	}
	var mu sync.Mutex
	for g := range 4 {
		go func() {
			start, _ := strconv.Atoi(starts[g])
			for i := start; ; i++ {
				if err := (load{db: "d"}).round(context.Background(), t, r, g, i); err != nil {
					fmt.Println("fatal", err)
					os.Exit(3)
				}
				mu.Lock()
				fmt.Println("ack", g, i)
				mu.Unlock()
			}
		}()
	}
	select {}
}

func TestKill(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		dir := t.TempDir() + "/n"
		rng := rand.New(rand.NewPCG(3, 4))
		deadline := time.Now().Add(6 * time.Second)
		var acked [4]int
		total, rounds := 0, 0
		for rounds < 15 && (rounds < 2 || time.Now().Before(deadline)) {
			rounds++
			// A counter counts rounds without a gap, so the next child starts
			// behind the newest round that is there.
			n := killRound(t, dir, encrypted, &acked, time.Duration(60+rng.IntN(250))*time.Millisecond)
			total += n
			cfg := config(t, filesFor(t, vfs.Default, dir, encrypted), dir)
			r := open(t, cfg)
			for g := range acked {
				d := find(t, r, "d", "counters", g)
				if acked[g] == 0 && d == nil {
					continue
				}
				if d == nil || d.Lookup("last").AsInt64() < int64(acked[g]-1) {
					t.Fatalf("writer %d: %d acknowledged, found %v", g, acked[g], d)
				}
				// rounds that were done, but not acknowledged
				for acked[g] <= int(d.Lookup("last").AsInt64()) {
					acked[g]++
				}
			}
			for g := range acked {
				for i := 0; i < acked[g]; i++ {
					if find(t, r, "d", "docs", fmt.Sprintf("%d-%d", g, i)) == nil {
						t.Fatalf("writer %d: document %d of %d is gone", g, i, acked[g])
					}
				}
			}
			verify(t, r)
			shut(t, r)
		}
		t.Logf("%d kills, %d acknowledged rounds", rounds, total)
		if total == 0 {
			t.Fatal("nothing was acknowledged")
		}
	})
}

func killRound(t *testing.T, dir string, encrypted bool, acked *[4]int, after time.Duration) int {
	t.Helper()
	starts := make([]string, len(acked))
	for g, n := range acked {
		starts[g] = strconv.Itoa(n)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChild+"="+dir, crashChild+"_START="+strings.Join(starts, ","))
	if encrypted {
		cmd.Env = append(cmd.Env, crashChild+"_ENCRYPTED=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	sc := bufio.NewScanner(out)
	var timer *time.Timer
	for sc.Scan() {
		var g, i int
		if strings.HasPrefix(sc.Text(), "fatal") {
			t.Error(sc.Text())
		}
		if _, err := fmt.Sscanf(sc.Text(), "ack %d %d", &g, &i); err != nil {
			continue
		}
		if n++; n == 1 {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		acked[g] = i + 1
	}
	if timer != nil {
		timer.Stop()
	}
	_ = cmd.Wait()
	return n
}
