// Package parse
package parse
