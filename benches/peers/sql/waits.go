package main

import "math/bits"

// Waits are counted to three digits, as in the bench: exactly below 2048, then
// in steps that double with the value. rows[s] has the values that are shifted by
// s to fit into eleven bits; rows are created on demand.
type waits struct {
	rows [64][]uint64
}

const rowLength = 2048

func (w *waits) record(nanos int64) {
	if nanos < 0 {
		nanos = 0
	}
	shift := bits.Len64(uint64(nanos)) - 11
	if shift < 0 {
		shift = 0
	}
	if w.rows[shift] == nil {
		w.rows[shift] = make([]uint64, rowLength)
	}
	w.rows[shift][nanos>>uint(shift)]++
}

func (w *waits) add(other *waits) {
	for shift, row := range other.rows {
		if row == nil {
			continue
		}
		if w.rows[shift] == nil {
			w.rows[shift] = make([]uint64, rowLength)
		}
		for i, count := range row {
			w.rows[shift][i] += count
		}
	}
}

// pairs returns value, count, value, count and so on.
func (w *waits) pairs() []uint64 {
	pairs := []uint64{}
	for shift, row := range w.rows {
		for i, count := range row {
			if count > 0 {
				pairs = append(pairs, uint64(i)<<uint(shift), count)
			}
		}
	}
	return pairs
}
