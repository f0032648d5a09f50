import { Chart, nearestIndex } from "./chart.js";

/** Charts that point at the same moment. */
export class ChartLink {
  constructor() {
    /** @type {Set<LinkedChart>} */
    this.charts = new Set();
  }

  /** @param {LinkedChart} source where the person points @param {number | null} time Unix ms, null when nowhere */
  point(source, time) {
    for (const chart of this.charts) if (chart !== source) chart.follow(time);
  }
}

/** A Chart whose read-out moves with those of the other charts in `props.link` (a ChartLink). */
export class LinkedChart extends Chart {
  didMount() {
    this.props.link.charts.add(this);
    return [...super.didMount(), () => this.props.link.charts.delete(this)];
  }

  /** @param {{[name: string]: any}} partial */
  setState(partial) {
    super.setState(partial);
    if ("at" in partial) {
      this.props.link.point(this, partial.at === null ? null : this.props.timestamps[partial.at] ?? null);
    }
  }

  /** @param {number | null} time Unix ms */
  follow(time) {
    const { timestamps = [] } = this.props;
    const at = time === null || !timestamps.length ? null : nearestIndex(timestamps, time);
    if (at !== this.state.at) super.setState({ at, keyboard: false });
  }
}
