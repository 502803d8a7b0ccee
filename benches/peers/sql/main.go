// Measures database/sql with a driver that does nothing. ../README.md describes the
// protocol.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// batch is the number of operations without a hold between two reads of the stop flag.
const batch = 64

type request struct {
	threads, connections int
	hold                 time.Duration
	kind                 string
	length               time.Duration
	timed                bool
}

type answer struct {
	Operations []uint64 `json:"operations"`
	Elapsed    int64    `json:"elapsed_ns"`
	Waits      []uint64 `json:"waits"`
	Switches   int64    `json:"voluntary_switches"`
}

// stopFlag has its own cache lines.
type stopFlag struct {
	_    [128]byte
	flag uint32
	_    [124]byte
}

func (s *stopFlag) isSet() bool { return atomic.LoadUint32(&s.flag) != 0 }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	out := json.NewEncoder(os.Stdout)
	must(out.Encode(map[string]string{"version": "of " + runtime.Version()}))
	var db *sql.DB
	var last request
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		next := parse(in.Text())
		// Each cell has a pool of its own.
		if db == nil || next.threads != last.threads || next.connections != last.connections || next.hold != last.hold {
			if db != nil {
				must(db.Close())
			}
			db = open(next.connections)
			last = next
		}
		must(out.Encode(pass(db, next)))
	}
}

func parse(line string) request {
	var r request
	var hold, millis int64
	_, err := fmt.Sscan(line, &r.threads, &r.connections, &hold, &r.kind, &millis, &r.timed)
	must(err)
	r.hold = time.Duration(hold)
	r.length = time.Duration(millis) * time.Millisecond
	return r
}

// open returns a pool whose connections are all open.
func open(connections int) *sql.DB {
	db := sql.OpenDB(stubDriver{})
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	held := make([]*sql.Conn, connections)
	for i := range held {
		held[i] = get(db)
	}
	for _, conn := range held {
		must(conn.Close())
	}
	return db
}

func get(db *sql.DB) *sql.Conn {
	conn, err := db.Conn(context.Background())
	must(err)
	return conn
}

func pass(db *sql.DB, r request) answer {
	var stop stopFlag
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	operations := make([]uint64, r.threads)
	each := make([]waits, r.threads)
	ready.Add(r.threads)
	done.Add(r.threads)
	for i := 0; i < r.threads; i++ {
		go func(i int) {
			defer done.Done()
			ready.Done()
			<-begin
			operations[i] = work(db, r, &stop, &each[i])
		}(i)
	}
	ready.Wait()
	switches := voluntarySwitches()
	start := time.Now()
	close(begin)
	time.Sleep(r.length)
	atomic.StoreUint32(&stop.flag, 1)
	done.Wait()
	elapsed := time.Since(start)
	var all waits
	for i := range each {
		all.add(&each[i])
	}
	return answer{operations, elapsed.Nanoseconds(), all.pairs(), voluntarySwitches() - switches}
}

func work(db *sql.DB, r request, stop *stopFlag, w *waits) uint64 {
	switch {
	case r.hold == 0 && !r.timed:
		return untimed(db, stop)
	case r.hold == 0:
		return timedWithoutHold(db, stop, w)
	default:
		return timedWithHold(db, r, stop, w)
	}
}

func untimed(db *sql.DB, stop *stopFlag) (operations uint64) {
	for !stop.isSet() {
		for i := 0; i < batch; i++ {
			must(get(db).Close())
		}
		operations += batch
	}
	return operations
}

func timedWithoutHold(db *sql.DB, stop *stopFlag, w *waits) (operations uint64) {
	for !stop.isSet() {
		for i := 0; i < batch; i++ {
			must(timedGet(db, w).Close())
		}
		operations += batch
	}
	return operations
}

func timedWithHold(db *sql.DB, r request, stop *stopFlag, w *waits) (operations uint64) {
	for !stop.isSet() {
		conn := timedGet(db, w)
		if r.kind == "busy" {
			for start := time.Now(); time.Since(start) < r.hold; {
			}
		} else {
			time.Sleep(r.hold)
		}
		must(conn.Close())
		operations++
	}
	return operations
}

func timedGet(db *sql.DB, w *waits) *sql.Conn {
	start := time.Now()
	conn := get(db)
	w.record(time.Since(start).Nanoseconds())
	return conn
}

// voluntarySwitches counts those of the whole process, because a goroutine has no thread
// of its own.
func voluntarySwitches() int64 {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Nvcsw
}
