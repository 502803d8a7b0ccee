package main

import (
	"context"
	"database/sql/driver"
	"errors"
)

// errUnused answers calls that the bench never makes.
var errUnused = errors.New("the stub driver runs no statements")

// stubDriver opens connections that do nothing.
type stubDriver struct{}

type stubConn struct{}

func (stubDriver) Connect(context.Context) (driver.Conn, error) { return &stubConn{}, nil }
func (stubDriver) Driver() driver.Driver                        { return stubDriver{} }
func (stubDriver) Open(string) (driver.Conn, error)             { return &stubConn{}, nil }

func (*stubConn) Prepare(string) (driver.Stmt, error) { return nil, errUnused }
func (*stubConn) Begin() (driver.Tx, error)           { return nil, errUnused }
func (*stubConn) Close() error                        { return nil }
